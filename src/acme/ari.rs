//! When a CA would have a certificate renewed (ARI, RFC 9773).

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use openssl::x509::X509Ref;
use serde::Deserialize;

use super::{ca::Ca, trouble::Trouble};
use crate::policy::renewal::Window;

/// Section 4.3.
const EVERY: Duration = Duration::from_secs(6 * 3600);
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(86_400);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: SuggestedWindow,
}

#[derive(Deserialize)]
struct SuggestedWindow {
    start: String,
    end: String,
}

/// How a CA calls a certificate (section 4.1); `None` where it does not say who has signed it.
pub(super) fn id(leaf: &X509Ref) -> Option<String> {
    let authority = leaf.authority_key_id()?;
    let serial = leaf.serial_number().to_bn().ok()?.to_vec();
    // As DER has it: a first bit of 1 would be a sign.
    let sign: &[u8] = if serial.first().is_none_or(|byte| *byte >= 0x80) { &[0] } else { &[] };
    Some(format!("{}.{}", BASE64.encode(authority.as_slice()), BASE64.encode([sign, &serial].concat())))
}

/// The window, and after how long to ask again; `None` where the CA has no opinion.
pub(super) async fn ask(ca: &Ca, id: &str) -> Result<(Option<Window>, Duration), Trouble> {
    let directory = ca.directory().await?;
    let Some(url) = &directory.renewal_info else { return Ok((None, LATEST)) };
    let answer = ca.get(&format!("{}/{id}", url.trim_end_matches('/'))).await?;
    let info: RenewalInfo = answer.json("a suggestion for renewal")?;
    let time = |text: &str| {
        let parsed: Result<SystemTime, _> = humantime::parse_rfc3339(text);
        parsed.map_err(|_| Trouble::bad_answer("the CA suggests a time that is none"))
    };
    let SuggestedWindow { start, end } = &info.suggested_window;
    let window = Window { from: time(start)?, until: time(end)? };
    Ok((Some(window), answer.retry_after().unwrap_or(EVERY).clamp(SOONEST, LATEST)))
}

/// One that does not answer is asked again when others are.
pub(super) const AFTER_FAILURE: Duration = EVERY;
