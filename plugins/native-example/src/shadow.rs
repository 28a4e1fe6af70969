//! `shadow`: marks the requests of a share of the clients, always of the same ones. A route that matches the mark can then
//! do for them what it likes: mirror them to the next version with whole sessions and not single requests in it, trace them
//! all, try a stricter limit on them.
//!
//! Who is chosen follows from the key alone. So every gateway chooses the same clients, also after a restart, and whoever
//! was chosen at 5% still is at 10%. Filters with different marks choose independently of each other.

use std::sync::Arc;

use tidegate::filter::{
    Exchange, Filter, Flow, Invalid, Live, Options, Path, Phases, Ratio, Reason,
    http::{HeaderName, HeaderValue},
    schemars::JsonSchema,
    serde::Deserialize,
};

/// Marks the requests of a share of the clients, always of the same ones.
#[derive(Deserialize, JsonSchema)]
#[serde(crate = "tidegate::filter::serde", deny_unknown_fields)]
#[schemars(crate = "tidegate::filter::schemars")]
pub(crate) struct Shadow {
    /// How many of the clients are chosen.
    share: Ratio,
    /// The request field that says whose a request is, such as `x-user-id`. Without this option, and for requests that
    /// lack the field, it is the client's address.
    by: Option<String>,
    /// The request field that is `yes` where the client is chosen, and absent otherwise, whatever the client sends.
    #[serde(default = "mark")]
    mark: String,
}

fn mark() -> String {
    "x-shadow".to_owned()
}

impl Options for Shadow {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let header = |key: &str, name: &str| {
            HeaderName::try_from(name).map_err(|_| {
                Invalid::new(at.key(key), format!("`{name}` is not a header name (letters, digits and `-`)"))
            })
        };
        let share = match self.share.as_f64() {
            0.0 => Err(Invalid::new(at.key("share"), "a share of 0% chooses nobody (leave the filter out)")),
            share => Ok(share),
        };
        let by = self.by.as_deref().map(|by| header("by", by)).transpose();
        match (share, by, header("mark", &self.mark)) {
            (Ok(share), Ok(by), Ok(mark)) => Ok(Arc::new(Choose { share, by, mark })),
            (share, by, mark) => Err([share.err(), by.err(), mark.err()].into_iter().flatten().collect()),
        }
    }
}

struct Choose {
    /// From 0 to 1.
    share: f64,
    by: Option<HeaderName>,
    mark: HeaderName,
}

impl Choose {
    fn is_chosen(&self, exchange: &Exchange<'_>) -> bool {
        let field = self.by.as_ref().and_then(|by| exchange.request.headers.get(by));
        let place = match field {
            Some(value) => place(self.mark.as_str(), value.as_bytes()),
            None => place(self.mark.as_str(), exchange.facts.client.to_string().as_bytes()),
        };
        place < self.share
    }
}

impl Filter for Choose {
    fn phases(&self) -> Phases {
        // Where it stands in a listener's chain, the route is found anew, so that one can match the mark.
        Phases::REQUEST | Phases::CHANGES_REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        exchange.request.remove_header(&self.mark);
        if self.is_chosen(exchange) {
            let marked = exchange.request.insert_header(self.mark.clone(), HeaderValue::from_static("yes"));
            marked.map_err(|_| Reason::HeaderTooLarge)?;
        }
        Ok(Flow::Continue)
    }
}

/// Where a client stands among all, from 0 up to 1. FNV-1a, and a last step that spreads keys which are nearly alike
/// (Murmur3's): written out, because it must never change, while the standard library's hash may.
fn place(mark: &str, key: &[u8]) -> f64 {
    let bytes = mark.bytes().chain([0]).chain(key.iter().copied());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let hash = hash ^ (hash >> 33);
    // As many bits as a float holds, so that no place is rounded up to 1.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use tidegate::filter::{Facts, RequestHeader};

    use super::*;

    fn filter(share: u8, by: Option<&str>) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let options = Shadow { share: Ratio::from_percent(share), by: by.map(str::to_owned), mark: mark() };
        options.build(&Path::root(), &Live::offline())
    }

    /// What the mark is after the filter has seen a request with these fields.
    fn marked(filter: &dyn Filter, fields: &[(&'static str, &str)]) -> Option<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            request.insert_header(*name, *value).unwrap();
        }
        let mut facts = Facts::default();
        let flow = filter.on_request(&mut Exchange::new(&mut request, &mut facts));
        assert!(matches!(flow, Ok(Flow::Continue)), "{flow:?}");
        request.headers.get("x-shadow").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn about_the_share_is_chosen_and_always_the_same() {
        let (tenth, fifth) = (filter(10, Some("x-user-id")).unwrap(), filter(20, Some("x-user-id")).unwrap());
        let chosen = |filter: &Arc<dyn Filter>| -> Vec<usize> {
            let is_chosen = |user: &usize| marked(&**filter, &[("x-user-id", &user.to_string())]).is_some();
            (0..10_000).filter(is_chosen).collect()
        };
        let (first, again, more) = (chosen(&tenth), chosen(&tenth), chosen(&fifth));
        assert!((900..1_100).contains(&first.len()), "{}", first.len());
        assert_eq!(first, again);
        assert!(first.iter().all(|user| more.contains(user)), "who was chosen stays so as the share grows");
    }

    #[test]
    fn who_is_chosen_is_the_same_in_every_version_of_this_filter() {
        assert_eq!(format!("{:.6}", place("x-shadow", b"user-7")), "0.380247");
        assert_eq!(format!("{:.6}", place("x-shadow", b"")), "0.000813");
    }

    #[test]
    fn a_mark_of_the_clients_own_is_taken_off() {
        let one_percent = filter(1, Some("x-user-id")).unwrap();
        // By the place in the test above.
        assert_eq!(marked(&*one_percent, &[("x-user-id", "user-7"), ("x-shadow", "yes")]), None);
        assert_eq!(marked(&*filter(100, None).unwrap(), &[("x-shadow", "no")]).as_deref(), Some("yes"));
    }

    #[test]
    fn options_that_make_no_sense_are_told_by_their_place() {
        let refused = filter(0, Some("no name")).err().unwrap();
        let told: Vec<String> = refused.iter().map(|invalid| invalid.path.to_string()).collect();
        assert_eq!(told, ["share", "by"]);
    }
}
