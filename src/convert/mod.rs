//! Configurations of other gateways, in our words: nginx, Traefik, and the Gateway API of Kubernetes.
//!
//! Nothing is dropped in silence. Whatever has no equal here is a comment in what is written, with the file, the line and the reason;
//! an empty list of these means that the new file does what the old one did.

pub mod draft;
mod durations;
mod fields;
pub mod gateway_api;
mod hostnames;
pub mod nginx;
mod table;
pub mod traefik;
mod upstreams;

use std::fmt;

use draft::Map;

/// A configuration in our words, and what of the other's is not in it.
#[derive(Debug)]
pub struct Converted {
    pub file: Map,
    pub left: Vec<Left>,
}

/// What was not carried over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    pub at: Place,
    /// As it was written, shortened to a line.
    pub what: String,
    pub why: String,
}

/// A line of a file that was read; lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    pub line: usize,
}

/// Why nothing could be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub at: Place,
    /// From 1, in characters; 0 where the line is 0, and the file as a whole is meant.
    pub column: usize,
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.line {
            0 => write!(f, "{}: {}", self.at.file, self.why),
            line => write!(f, "{}:{line}:{}: {}", self.at.file, self.column, self.why),
        }
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: not carried over: {} ({})", self.at, self.what, self.why)
    }
}
