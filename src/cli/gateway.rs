//! The way into the process: `main.rs` here, and that of a gateway of one's own.

use std::{process::ExitCode, sync::Arc};

use crate::filter::{Options, Registry};

/// A gateway that may have filters of your own. The whole of such a program is this, beside its filters:
///
/// ```no_run
/// use std::process::ExitCode;
/// # mod shadow {
/// #     use std::sync::Arc;
/// #     use tidegate::filter::*;
/// #     #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #     #[serde(crate = "tidegate::filter::serde")]
/// #     #[schemars(crate = "tidegate::filter::schemars")]
/// #     pub struct Shadow {}
/// #     impl Options for Shadow {
/// #         fn build(self, _: &Path, _: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
/// #             struct Nothing;
/// #             impl Filter for Nothing {
/// #                 fn phases(&self) -> Phases {
/// #                     Phases::empty()
/// #                 }
/// #             }
/// #             Ok(Arc::new(Nothing))
/// #         }
/// #     }
/// # }
///
/// fn main() -> ExitCode {
///     tidegate::Gateway::new().filter::<shadow::Shadow>("shadow").main()
/// }
/// ```
///
/// It has all commands of `tidegate`, and each of them knows the filters: `check`, `explain`, `schema`, `run`. How one is
/// written stands in [`filter`](crate::filter).
///
/// The library brings its memory allocator (mimalloc) along; a program cannot have a `#[global_allocator]` beside it.
#[derive(Clone)]
pub struct Gateway {
    registry: Registry,
}

impl Gateway {
    /// With the filters that every gateway has.
    pub fn new() -> Gateway {
        Gateway { registry: Registry::built_in() }
    }

    /// And one of your own, whose options an operator writes below `name`.
    ///
    /// # Panics
    ///
    /// There is a filter of that name already, or a configuration could not hold the name.
    #[must_use]
    #[track_caller]
    pub fn filter<O: Options>(mut self, name: &'static str) -> Gateway {
        self.registry.add::<O>(name);
        self
    }

    /// Runs the command that the arguments name, to its end.
    pub fn main(self) -> ExitCode {
        super::run_command(&Arc::new(self.registry))
    }
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway::new()
    }
}
