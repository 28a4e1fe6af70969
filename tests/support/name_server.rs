//! A name server that says what it was told last, over UDP. Read by the unit tests too, so it needs nothing else of the support.
#![allow(dead_code, reason = "unit and integration tests each use a part")]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, SRV},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// Dropping it ends it.
pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Zone {
    /// In seconds.
    ttl: u32,
    /// By the name, in lower case and without the dot at its end.
    records: Vec<(String, RData)>,
    questions: usize,
    asked: BTreeSet<String>,
}

impl NameServer {
    pub(crate) async fn start() -> NameServer {
        NameServer::on(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn on(socket: UdpSocket) -> NameServer {
        let (address, zone) = (socket.local_addr().unwrap(), Arc::<Mutex<Zone>>::default());
        let asked = zone.clone();
        let serving = tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut packet).await {
                let Ok(message) = Message::from_vec(&packet[..length]) else { continue };
                let answer = asked.lock().unwrap().answer(message);
                let _ = socket.send_to(&answer.to_vec().unwrap(), client).await;
            }
        });
        NameServer { address, zone, serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these are all records: `NAME A ADDRESS` and `NAME SRV PRIORITY WEIGHT PORT TARGET`.
    pub(crate) fn say(&self, ttl: u32, records: &[&str]) {
        let mut zone = self.zone.lock().unwrap();
        zone.ttl = ttl;
        zone.records = records.iter().map(|record| read(record)).collect();
    }

    pub(crate) fn questions(&self) -> usize {
        self.zone.lock().unwrap().questions
    }

    /// The names that were asked for.
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        self.zone.lock().unwrap().asked.clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Zone {
    fn answer(&mut self, mut message: Message) -> Message {
        self.questions += 1;
        let query = message.queries[0].clone();
        let labels: Vec<_> = query.name().iter().map(String::from_utf8_lossy).collect();
        let name = labels.join(".").to_ascii_lowercase();
        self.asked.insert(name.clone());
        let of_name = || self.records.iter().filter(|(known, _)| *known == name);
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code =
            if of_name().next().is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        for (_, data) in of_name().filter(|(_, data)| data.record_type() == query.query_type()) {
            message.add_answer(Record::from_rdata(query.name().clone(), self.ttl, data.clone()));
        }
        message
    }
}

fn read(record: &str) -> (String, RData) {
    let words: Vec<&str> = record.split(' ').collect();
    let number = |at: usize| words[at].parse().unwrap();
    let data = match words[1] {
        "A" => RData::A(A(words[2].parse::<Ipv4Addr>().unwrap())),
        "SRV" => RData::SRV(SRV::new(number(2), number(3), number(4), Name::from_ascii(words[5]).unwrap())),
        other => panic!("no such type here: {other}"),
    };
    (words[0].to_owned(), data)
}
