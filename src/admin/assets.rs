//! The console's files. They are part of the binary, so that the page needs nothing from elsewhere and is always the one
//! that was written for this gateway. They hold no secret, and what may be done with them is decided by the API they call.

use std::{io::Write, sync::LazyLock};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH,
        REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use openssl::sha::sha256;

use crate::api::reply::{self, Reply};

/// Nothing but our own scripts runs, nothing but this gateway is spoken to, and no text becomes markup: whatever a stranger's
/// path or agent says, and even if a mistake of ours let it in.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// What a browser asks for, what it is, and its bytes.
type File = (&'static str, &'static str, &'static [u8]);

macro_rules! file {
    ($name:literal, $kind:expr) => {
        ($name, $kind, include_bytes!(concat!("console/", $name)).as_slice())
    };
}

const FILES: &[File] = &[
    file!("index.html", HTML),
    file!("app.css", CSS),
    file!("api.js", JS),
    file!("app.js", JS),
    file!("chart.js", JS),
    file!("format.js", JS),
    file!("parts.js", JS),
    file!("place.js", JS),
    file!("render.js", JS),
    file!("store.js", JS),
    file!("table.js", JS),
    file!("views/canaries.js", JS),
    file!("views/config.js", JS),
    file!("views/control.js", JS),
    file!("views/history.js", JS),
    file!("views/identity.js", JS),
    file!("views/map.js", JS),
    file!("views/overview.js", JS),
    file!("views/plugins.js", JS),
    file!("views/routes.js", JS),
    file!("views/tail.js", JS),
    file!("views/upstreams.js", JS),
];

/// A file as it is sent.
struct Asset {
    name: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    zipped: Bytes,
    /// Of the plain form; the zipped one's ends in `-gzip`.
    tag: String,
}

/// Made when the first page is opened: most gateways never show one.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(Asset::of).collect());

/// The file below `/ui/` of that name, where there is one; the empty name is the page.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Reply> {
    let name = if path.is_empty() { "index.html" } else { path };
    ASSETS.iter().find(|asset| asset.name == name).map(|asset| asset.answer(headers))
}

impl Asset {
    fn of(&(name, kind, plain): &File) -> Asset {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let zipped = encoder.write_all(plain).and_then(|()| encoder.finish());
        let digest = sha256(plain);
        let tag = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        // Memory does not refuse to be written to; a file that is not there would be sent as it is.
        Asset { name, kind, plain, zipped: zipped.unwrap_or_default().into(), tag }
    }

    fn answer(&self, headers: &HeaderMap) -> Reply {
        let is_zipped = !self.zipped.is_empty() && takes_gzip(headers);
        let tag = format!("\"{}{}\"", self.tag, if is_zipped { "-gzip" } else { "" });
        let mut reply = if has(headers, &tag) {
            reply::with_type(StatusCode::NOT_MODIFIED, self.kind, Bytes::new())
        } else if is_zipped {
            reply::with_type(StatusCode::OK, self.kind, self.zipped.clone())
        } else {
            reply::with_type(StatusCode::OK, self.kind, Bytes::from_static(self.plain))
        };
        let fields = reply.headers_mut();
        if is_zipped {
            fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(tag) = HeaderValue::try_from(tag) {
            fields.insert(ETAG, tag);
        }
        for (name, value) in [
            // Kept, and asked about each time: another release must not meet a page of this one.
            (CACHE_CONTROL, "no-cache"),
            (VARY, "accept-encoding"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        reply
    }
}

/// Whether the client has it already.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|value| value.split(',')).any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        coding.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, path::Path};

    use flate2::read::GzDecoder;
    use http::header::CONTENT_TYPE;

    use super::*;

    const KIB: usize = 1024;

    fn asked(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_file_of_the_folder_is_sent() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/console");
        let mut found = Vec::new();
        for folder in ["", "views/"] {
            for file in fs::read_dir(root.join(folder)).unwrap() {
                let file = file.unwrap();
                if file.file_type().unwrap().is_file() {
                    found.push(format!("{folder}{}", file.file_name().into_string().unwrap()));
                }
            }
        }
        found.sort();
        let mut sent: Vec<_> = FILES.iter().map(|(name, ..)| name.to_string()).collect();
        sent.sort();
        assert_eq!(found, sent);
    }

    /// What a browser reads for the first view; of the others each comes when it is looked at.
    #[test]
    fn the_page_stays_small() {
        let views = |asset: &&Asset| asset.name.starts_with("views/");
        let size = |asset: &Asset| (asset.plain.len(), asset.zipped.len());
        let sum = |sum: (usize, usize), (plain, zipped)| (sum.0 + plain, sum.1 + zipped);
        let frame = ASSETS.iter().filter(|asset| !views(asset)).map(size).fold((0, 0), sum);
        for view in ASSETS.iter().filter(views) {
            let (plain, zipped) = sum(frame, size(view));
            assert!(plain <= 100 * KIB, "{} and the frame have {plain} bytes", view.name);
            assert!(zipped <= 35 * KIB, "{} and the frame have {zipped} bytes zipped", view.name);
        }
    }

    #[test]
    fn what_is_zipped_is_the_same_file() {
        let zipped = answer("app.css", &asked(&[(ACCEPT_ENCODING, "br, gzip")])).unwrap();
        let plain = answer("app.css", &asked(&[(ACCEPT_ENCODING, "gzip;q=0, br")])).unwrap();
        assert_eq!(zipped.headers()[CONTENT_ENCODING], "gzip");
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        assert_ne!(zipped.headers()[ETAG], plain.headers()[ETAG]);
        for asset in ASSETS.iter() {
            let mut read = Vec::new();
            GzDecoder::new(&asset.zipped[..]).read_to_end(&mut read).unwrap();
            assert!(read == asset.plain, "{}", asset.name);
        }
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let tag = answer("", &asked(&[])).unwrap().headers()[ETAG].to_str().unwrap().to_owned();
        for (known, status) in
            [(tag.clone(), 304), (format!("\"x\", W/{tag}"), 304), ("*".into(), 304), ("\"x\"".into(), 200)]
        {
            let reply = answer("", &asked(&[(IF_NONE_MATCH, &known)])).unwrap();
            assert_eq!(reply.status().as_u16(), status, "{known}");
            assert!(reply.headers().contains_key(CONTENT_SECURITY_POLICY), "{known}");
        }
    }

    #[test]
    fn only_files_are_answered() {
        assert!(answer("", &asked(&[])).unwrap().headers()[CONTENT_TYPE] == HTML);
        for name in ["../assets.rs", "/app.js", "views", "views/", "app.js/", "APP.JS", "%61pp.js"] {
            assert!(answer(name, &asked(&[])).is_none(), "{name}");
        }
    }

    /// The policy would break what does one of these; and what a policy has to save is a mistake.
    #[test]
    fn no_script_makes_markup_of_text() {
        for (name, kind, bytes) in FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            let never =
                ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function"];
            for word in never.iter().filter(|_| *kind == JS) {
                assert!(!text.contains(word), "{name} has {word}");
            }
            let foreign = text.match_indices("://").filter(|(at, _)| {
                let rest = &text[at + 3..];
                !rest.starts_with(['$', '{'])
                    && !rest.starts_with("www.w3.org/2000/svg")
                    && !rest.starts_with("api.example.com")
            });
            assert_eq!(foreign.count(), 0, "{name} names a host");
        }
    }
}
