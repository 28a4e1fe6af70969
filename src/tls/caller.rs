//! What a verified certificate says of its owner.

use std::fmt::Write;

use openssl::{
    nid::Nid,
    x509::{GeneralNameRef, X509NameRef, X509Ref},
};

use crate::identity::{Caller, SpiffeId, ends, hex};

/// The owner of `leaf`, which must have been verified. `id` is that of an SVID.
pub(crate) fn caller(leaf: &X509Ref, id: Option<SpiffeId>) -> Caller {
    let names = leaf.subject_alt_names();
    let all = |pick: fn(&GeneralNameRef) -> Option<&str>| -> Vec<String> {
        names.iter().flatten().filter_map(|name| pick(name).map(str::to_owned)).collect()
    };
    Caller {
        id,
        until: ends(leaf),
        subject: subject(leaf.subject_name()),
        hash: leaf.to_der().map(|der| hex(&openssl::sha::sha256(&der))).unwrap_or_default(),
        uris: all(GeneralNameRef::uri),
        dns: all(GeneralNameRef::dnsname),
    }
}

/// As RFC 2253 writes it: the last attribute first, in printable ASCII only.
pub(crate) fn subject(name: &X509NameRef) -> String {
    let mut parts: Vec<String> = name
        .entries()
        .map(|entry| {
            let text = entry.data().to_string().unwrap_or_default();
            format!("{}={}", attribute(entry.object().nid()), escaped(&text))
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(nid: Nid) -> &'static str {
    nid.short_name().unwrap_or("UNDEF")
}

/// RFC 2253, section 2.4.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, character) in value.char_indices() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => text.extend(['\\', character]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            ' '..='~' => text.push(character),
            _ => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509Name;

    use super::*;

    fn name(entries: &[(&str, &str)]) -> X509Name {
        let mut name = X509Name::builder().unwrap();
        for (field, value) in entries {
            name.append_entry_by_text(field, value).unwrap();
        }
        name.build()
    }

    #[test]
    fn writes_a_subject_as_rfc_2253_has_it() {
        let plain = name(&[("C", "DE"), ("O", "Mesh"), ("CN", "payments")]);
        assert_eq!(subject(&plain), "CN=payments,O=Mesh,C=DE");
        assert_eq!(subject(&name(&[])), "");
        let tricky = name(&[("O", "a, b"), ("CN", " x\";=\r\n")]);
        assert_eq!(subject(&tricky), "CN=\\ x\\\"\\;=\\0D\\0A,O=a\\, b");
        assert_eq!(subject(&name(&[("CN", "Zoë")])), "CN=Zo\\C3\\AB");
    }
}
