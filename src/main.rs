//! The gateway with the filters that every gateway has. `plugins/native-example` is one with a filter of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::Gateway::new().main()
}
