//! `tidegate schema`: the JSON Schema of the configuration, filters included.

use crate::{app::Failure, config::Config, filter::Registry};

pub(crate) fn run(registry: &Registry) -> Result<(), Failure> {
    let schema = Config::json_schema(&registry.schemas());
    let text = serde_json::to_string_pretty(&schema).map_err(std::io::Error::other)?;
    Ok(super::print(&(text + "\n"))?)
}
