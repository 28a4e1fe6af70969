//! nginx: its words (lexer), blocks and includes (parser).

mod lexer;
mod parser;

use std::path::Path;

use self::parser::Directive;
use super::{Converted, Left, Place, Refused, draft::Map};

/// What this file and those that it includes say, in our words. `prefix` is what relative paths are relative to, by default the
/// file's folder.
///
/// # Errors
///
/// A file that cannot be read, or is none of nginx's; one in which there is nothing to convert.
pub fn convert(file: &Path, prefix: Option<&Path>) -> Result<Converted, Refused> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directives = parser::read(file, prefix.unwrap_or(folder))?;
    if !directives.iter().any(|directive| ["http", "stream", "server"].contains(&directive.name.as_str())) {
        let at = Place { file: file.display().to_string(), line: 0 };
        let why = "there is nothing to convert: no `http`, `stream` or `server` block".to_owned();
        return Err(Refused { at, column: 0, why });
    }
    let left = directives.iter().map(left).collect::<Vec<_>>();
    let mut file = Map::new();
    left.iter().for_each(|left: &Left| file.comment(left.to_string()));
    Ok(Converted { file, left })
}

fn left(directive: &Directive) -> Left {
    Left { at: directive.at.place(), what: directive.line(), why: "it has no equal here".to_owned() }
}
