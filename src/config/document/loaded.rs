//! What comes of reading the files, made so that a configuration with problems is not run by accident: it is given out
//! for use only when there are none, and for looking for more of them under another name.

use crate::config::{
    document::{problem::Problems, received::Additions, sources::Sources},
    model::Config,
};

/// A configuration, with what is known of where it came from and what is wrong with its form.
#[derive(Debug)]
pub struct Loaded {
    pub sources: Sources,
    /// What was read beside the files.
    pub additions: Additions,
    pub(in crate::config) config: Config,
    pub(in crate::config) problems: Problems,
}

impl Loaded {
    /// # Errors
    /// What is wrong with its form, which must not be passed over by whoever means to use it.
    pub fn config(&self) -> Result<&Config, &Problems> {
        if self.problems.is_empty() { Ok(&self.config) } else { Err(&self.problems) }
    }

    /// What could be read, well-formed or not: to look for more problems in, never to run. What is absent from it may
    /// have been written all the same, which [`Sources::is_doubtful`] knows.
    pub fn readable(&self) -> &Config {
        &self.config
    }

    /// Its places, what could be read, and what is wrong with its form, for whoever looks for more problems. It may be run where there are
    /// none of either kind.
    pub fn into_parts(self) -> (Sources, Config, Problems) {
        let Loaded { sources, config, problems, additions: _ } = self;
        (sources, config, problems)
    }

    /// What is wrong with its form.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }
}

/// For tests that write a file as one text.
#[cfg(test)]
pub(in crate::config) mod of_text {
    use crate::config::{Loaded, parse};

    pub(in crate::config) fn load(yaml: &str) -> Loaded {
        parse(yaml, "g.yaml").unwrap()
    }

    pub(in crate::config) fn problems(yaml: &str) -> Vec<String> {
        load(yaml).problems().iter().map(ToString::to_string).collect()
    }
}
