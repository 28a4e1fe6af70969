//! Which server is the master, as the sentinels see it. All of them are asked, and most of them are right: one that is cut off from the
//! others still names the master of yesterday. What a server itself says decides in the end.

use futures::future::join_all;
use redis::cmd;
use tokio::time::timeout;

use super::{
    Common,
    link::{Link, Refusal},
    node::ANSWER,
    servers::{Address, Sentinels, Which},
};

/// # Errors
///
/// Why there is no connection to a master, for the operator.
pub(super) async fn connect(common: &Common) -> Result<(Link, Address), String> {
    let address = named_by_most(common).await?;
    let link = master(&address, common).await.map_err(|refused| format!("{address}: {refused}"))?;
    Ok((link, address))
}

/// Who is the master instead, if most of the sentinels that answer say so.
pub(super) async fn other_master(common: &Common, than: &Address) -> Option<Address> {
    named_by_most(common).await.ok().filter(|named| named != than)
}

async fn master(address: &Address, common: &Common) -> Result<Link, String> {
    let link = Link::open(address, common).await?;
    match role(&link).await.as_deref() {
        Some("master") => Ok(link),
        _ => Err("it is not the master that the sentinels call it".to_owned()),
    }
}

async fn role(link: &Link) -> Option<String> {
    let answer = link.ask(&cmd("ROLE"), false).await.ok()?;
    let redis::Value::Array(parts) = answer else { return None };
    redis::from_redis_value(parts.into_iter().next()?).ok()
}

/// Whom more than half of the sentinels that answer call the master. Nobody else is spoken to: whoever a few name may be the master of
/// yesterday, or whoever wants the password.
async fn named_by_most(common: &Common) -> Result<Address, String> {
    let Which::Sentinels(sentinels) = &common.servers.which else {
        return Err("it has no sentinels".to_owned());
    };
    let asked = sentinels.addresses.iter().map(|sentinel| async move {
        let answer = timeout(ANSWER, named_by(sentinel, sentinels, common)).await;
        answer
            .unwrap_or_else(|_| Err("it does not answer".to_owned()))
            .map_err(|why| format!("sentinel {sentinel}: {why}"))
    });
    let (mut named, mut why) = (Vec::new(), String::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(master) => named.push(master),
            Err(refused) => why = refused,
        }
    }
    match most(&named) {
        Some(master) => Ok(master.clone()),
        None if named.is_empty() => Err(why),
        None => Err("the sentinels do not agree on the master".to_owned()),
    }
}

fn most(named: &[Address]) -> Option<&Address> {
    named.iter().find(|one| named.iter().filter(|other| other == one).count() * 2 > named.len())
}

async fn named_by(sentinel: &Address, sentinels: &Sentinels, common: &Common) -> Result<Address, String> {
    let Sentinels { login, master, .. } = sentinels;
    let link = Link::for_servers(sentinel, login, common).await?;
    let mut question = cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(master);
    let answer = link.ask(&question, false).await.map_err(Refusal::why)?;
    let named = redis::from_redis_value::<Option<(String, u16)>>(answer);
    match named.map_err(|_| "what it answers is no address (is it a sentinel?)".to_owned())? {
        Some((host, port)) => {
            Address::named(&host, port).ok_or_else(|| "it names a master that is nowhere".to_owned())
        }
        None => Err(format!("it knows no master {master:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_sentinels_name_no_master() {
        let (right, other) = (Address::Tcp("right".to_owned(), 6379), Address::Tcp("other".to_owned(), 6379));
        let named = |right_votes: usize, others: usize| {
            let mut named = vec![other.clone(); others];
            named.extend(vec![right.clone(); right_votes]);
            most(&named).cloned()
        };
        assert_eq!(named(1, 0), Some(right.clone()));
        assert_eq!(named(2, 1), Some(right.clone()));
        assert_eq!(named(1, 2), Some(other.clone()));
        assert_eq!((named(1, 1), named(0, 0)), (None, None));
    }
}
