//! `tidegate schema`: the JSON Schema of the configuration, filters included; or the admin API as OpenAPI describes it.

use clap::Args;

use crate::{admin, app::Failure, config::Config, filter::Registry};

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// The admin API in OpenAPI 3.1, in the place of the configuration
    #[arg(long)]
    api: bool,
}

pub(crate) fn run(args: &SchemaArgs, registry: &Registry) -> Result<(), Failure> {
    let schema = match args.api {
        true => admin::openapi_document(),
        false => Config::json_schema(&registry.schemas()),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(std::io::Error::other)?;
    Ok(super::print(&(text + "\n"))?)
}
