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
    let mut why = String::new();
    for address in masters(common).await? {
        match master(&address, common).await {
            Ok(link) => return Ok((link, address)),
            Err(refused) => why = format!("{address}: {refused}"),
        }
    }
    Err(why)
}

/// Who is the master instead, if most of the sentinels that answer say so.
pub(super) async fn other_master(common: &Common, than: &Address) -> Option<Address> {
    let first = masters(common).await.ok()?.into_iter().next();
    first.filter(|first| first != than)
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

/// Those that are called the master, by most of the sentinels first.
async fn masters(common: &Common) -> Result<Vec<Address>, String> {
    let Which::Sentinels(sentinels) = &common.servers.which else { return Ok(Vec::new()) };
    let asked = sentinels.addresses.iter().map(|sentinel| async move {
        let answer = timeout(ANSWER, named_by(sentinel, sentinels, common)).await;
        answer
            .unwrap_or_else(|_| Err("it does not answer".to_owned()))
            .map_err(|why| format!("sentinel {sentinel}: {why}"))
    });
    let (mut named, mut why) = (Vec::<(usize, Address)>::new(), String::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(master) => match named.iter_mut().find(|(_, known)| *known == master) {
                Some((votes, _)) => *votes += 1,
                None => named.push((1, master)),
            },
            Err(refused) => why = refused,
        }
    }
    named.sort_by_key(|(votes, _)| std::cmp::Reverse(*votes));
    match named.is_empty() {
        true => Err(why),
        false => Ok(named.into_iter().map(|(_, master)| master).collect()),
    }
}

async fn named_by(sentinel: &Address, sentinels: &Sentinels, common: &Common) -> Result<Address, String> {
    let Sentinels { login, master, .. } = sentinels;
    let link = Link::for_servers(sentinel, login, common).await?;
    let mut question = cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(master);
    let answer = link.ask(&question, false).await.map_err(Refusal::why)?;
    let named = redis::from_redis_value::<Option<(String, u16)>>(answer);
    match named.map_err(|_| "what it answers is no address (is it a sentinel?)".to_owned())? {
        Some((host, port)) => Ok(Address::Tcp(host, port)),
        None => Err(format!("it knows no master {master:?}")),
    }
}
