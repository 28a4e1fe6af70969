//! What strangers register, and the file that what is registered is kept in: we write it, and anybody may edit it.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    instance::Owner,
    registration::{
        LONGEST_ID, LONGEST_NAME, MOST_PAIRS, MOST_TAGS, Registration, Ttls, Written, check_id, check_name,
    },
    store,
};

const TTLS: Ttls =
    Ttls { default: Duration::from_secs(30), min: Duration::from_secs(1), max: Duration::from_secs(86_400) };

/// Whatever is taken is within the limits, and means the same when it is registered again as it is shown.
pub(crate) fn registration(bytes: &[u8]) {
    let Ok(written) = serde_json::from_slice::<Written>(bytes) else { return };
    let Ok(read) = Registration::read(written, &TTLS) else { return };
    assert!(read.name.len() <= LONGEST_NAME && read.id.len() <= LONGEST_ID && read.port > 0);
    assert!(read.tags.len() <= MOST_TAGS && read.metadata.len() <= MOST_PAIRS);
    assert!((TTLS.min..=TTLS.max).contains(&read.ttl));
    assert!(check_name(&read.name).is_ok() && check_id(&read.id).is_ok());
    let shown = read.clone().instance(Owner::Anybody, UNIX_EPOCH);
    let again = Written {
        name: shown.name.to_string(),
        address: Some(shown.address()),
        host: None,
        port: None,
        id: Some(shown.id.to_string()),
        tags: shown.tags.iter().cloned().collect(),
        metadata: shown.metadata.clone(),
        ttl: Some(shown.ttl.into()),
        weight: Some(shown.weight),
        protocol: shown.protocol,
        health: shown.health,
    };
    assert_eq!(Registration::read(again, &TTLS), Ok(read));
}

/// What a file says is within the limits too, and what we write of it we read.
pub(crate) fn state(bytes: &[u8]) {
    let Ok((position, instances)) = store::saved::read(bytes, &TTLS) else { return };
    assert!(instances.iter().all(|one| check_name(&one.name).is_ok() && check_id(&one.id).is_ok()));
    let text = store::saved::text(position, &instances).expect("what was read can be written");
    assert_eq!(store::saved::read(&text, &TTLS), Ok((position, instances)));
}
