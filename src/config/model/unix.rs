//! `unix:/run/app.sock`: the address of a Unix socket, and the mode of one that is listened on.

use std::{borrow::Cow, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::model::units::{Given, read};

/// What the kernel has room for, its final zero aside (unix(7)).
const LONGEST: usize = 107;

/// The path of `unix:PATH`; `None` for an address of another kind.
///
/// # Errors
///
/// The path cannot be that of a socket; written for the operator.
pub fn unix_path(address: &str) -> Option<Result<PathBuf, String>> {
    let path = address.strip_prefix("unix:")?;
    // As URLs have it, `unix:///run/app.sock`.
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(match path {
        _ if path.starts_with(['@', '\0']) => Err(format!(
            "{address:?} is an abstract socket, which no file's permissions protect (try \"unix:/run/app.sock\")"
        )),
        _ if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => {
            Err(format!("{address:?} does not name a file by its full path (try \"unix:/run/app.sock\")"))
        }
        _ if path.len() > LONGEST => {
            Err(format!("{address:?} is too long: paths of sockets have at most {LONGEST} bytes"))
        }
        path => Ok(path.into()),
    })
}

/// The permissions of a socket's file, as chmod(1) takes them: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// Owner and group may connect.
impl Default for FileMode {
    fn default() -> Self {
        FileMode(0o660)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "permissions, such as \"0660\"", |given| match given {
            Given::Text(protocol @ ("tcp" | "http")) => {
                Err(format!("{given} are no permissions (write `protocol: {protocol}`)"))
            }
            Given::Text(text) if (3..=4).contains(&text.len()) => match u32::from_str_radix(text, 8) {
                Ok(bits @ 0..=0o777) => Ok(FileMode(bits)),
                _ => Err(format!("{given} are no permissions (try \"0660\")")),
            },
            // YAML reads 0660 as a number, and not everybody's YAML as the same one.
            _ => Err(format!("{given} are no permissions (write them in quotes: \"0660\")")),
        })
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for FileMode {
    fn schema_name() -> Cow<'static, str> {
        "FileMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^0?[0-7]{3}$", "description": "As chmod(1) takes them: \"0660\"."})
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn reads_full_paths_and_nothing_else() {
        for address in ["unix:/run/app.sock", "unix:///run/app.sock"] {
            assert_eq!(unix_path(address).unwrap().unwrap(), Path::new("/run/app.sock"));
        }
        assert_eq!(unix_path("127.0.0.1:80"), None);
        let long = format!("unix:/{}", "a".repeat(LONGEST));
        for (address, hint) in [
            ("unix:app.sock", "full path"),
            ("unix:", "full path"),
            ("unix:/run/", "full path"),
            ("unix://host/run", "full path"),
            ("unix:@app", "abstract"),
            (long.as_str(), "too long"),
        ] {
            let error = unix_path(address).unwrap().unwrap_err();
            assert!(error.contains(hint), "{address}: {error}");
        }
    }

    #[test]
    fn permissions_are_written_in_quotes() {
        for (written, bits) in [("0660", 0o660), ("600", 0o600), ("0777", 0o777)] {
            assert_eq!(from_value::<FileMode>(json!(written)).unwrap().bits(), bits);
        }
        assert_eq!(to_value(FileMode::default()).unwrap(), json!("0660"));
        for wrong in [json!(660), json!("rw"), json!("0999"), json!("1777"), json!("7")] {
            assert!(from_value::<FileMode>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
