//! Parse the command line, run the command, turn an error into an exit code and one printed chain.

use std::process::ExitCode;

/// Threads hand memory to each other all the time here; this allocator is made for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}
