//! A Tidegate with a filter of its own. This is all that such a gateway is, beside its filters.

use std::process::ExitCode;

mod shadow;

fn main() -> ExitCode {
    tidegate::Gateway::new().filter::<shadow::Shadow>("shadow").main()
}
