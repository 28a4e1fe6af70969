//! `systemd:edge`: the socket that the service manager listens on for us, by the name it has there.

/// What a name may be (`FileDescriptorName=`, systemd.socket(5)).
const LONGEST: usize = 255;

/// The name of `systemd:NAME`; `None` for an address of another kind.
///
/// # Errors
///
/// The service manager has no such names; written for the operator.
pub fn systemd_name(address: &str) -> Option<Result<&str, String>> {
    let name = address.strip_prefix("systemd:")?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    Some(match name {
        "" => Err(format!(
            "{address:?} names no socket (try \"systemd:edge\", with FileDescriptorName=edge in the socket unit)"
        )),
        name if name.len() > LONGEST || !is_name => Err(format!(
            "{address:?} is no name of a socket: FileDescriptorName= has up to {LONGEST} characters, no spaces and no colon"
        )),
        name => Ok(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_that_systemd_could_give() {
        assert_eq!(systemd_name("127.0.0.1:80"), None);
        assert_eq!(systemd_name("systemd:edge"), Some(Ok("edge")));
        assert_eq!(systemd_name("systemd:tidegate.socket"), Some(Ok("tidegate.socket")));
        let long = format!("systemd:{}", "a".repeat(LONGEST + 1));
        for address in ["systemd:", "systemd:a:b", "systemd:a b", "systemd:ä", long.as_str()] {
            assert!(systemd_name(address).unwrap().is_err(), "{address}");
        }
    }
}
