//! Real nginx and the converted file give the same answers to the same requests.
//!
//! Each `tests/convert/nginx/NAME.conf` is what stands in an `http` block, for one construct; `NAME.yaml` beside it has the requests, and what
//! may be left. Both servers stand before the same backends, which say what they have seen.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::Uri;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::backend::Backend;
use crate::{
    filters::handshake,
    support::{Answer, Gateway, Process, installed::installed, own_address, send},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    requests: Vec<Asked>,
    /// Words of each line that is not carried over; there are no others.
    #[serde(default)]
    left: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    path: String,
    /// What both must answer with.
    status: u16,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "www")]
    host: String,
    #[serde(default = "usual_port")]
    port: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// In place of `body`: so many bytes.
    #[serde(default)]
    body_size: usize,
    #[serde(default)]
    websocket: bool,
    /// The error is a page of the file's own, and no upstream's.
    #[serde(default)]
    page: bool,
}

fn get() -> String {
    "GET".to_owned()
}

fn www() -> String {
    "www.example.com".to_owned()
}

/// Any will do on an address that is nobody else's.
fn usual_port() -> u16 {
    8080
}

/// What is compared besides all fields that begin with these.
const FIELDS: [&str; 6] = [
    "cache-control",
    "content-encoding",
    "strict-transport-security",
    "location",
    "set-cookie",
    "www-authenticate",
];
const FAMILIES: [&str; 2] = ["x-", "access-control-"];

impl Asked {
    async fn ask(&self, server: IpAddr) -> Value {
        let address = (server, self.port).into();
        let mut headers: Vec<(&str, &str)> = vec![("host", &self.host)];
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if self.websocket {
            let answer = tokio::task::block_in_place(|| handshake(address, &self.path, &headers));
            return json!({"status": answer.status.as_u16(), "accept": answer.header("sec-websocket-accept")});
        }
        let body = if self.body_size > 0 { "x".repeat(self.body_size) } else { self.body.clone() };
        let answer = send(address, &self.method, &self.path, &headers, body).await;
        let mut shown = json!({"status": answer.status.as_u16(), "fields": self.fields(&answer)});
        // Pages that nginx makes for its own refusals are not compared.
        if answer.header("x-echo").is_some() || answer.status == 200 {
            shown["type"] = answer.header("content-type").into();
            shown["body"] = String::from_utf8(decoded(&answer)).unwrap().into();
        }
        if self.page {
            // Ours says in which encoding it is, as all of it is UTF-8.
            shown["type"] = answer.header("content-type").unwrap().split(';').next().into();
            shown["body"] = String::from_utf8(decoded(&answer)).unwrap().into();
        }
        shown
    }

    fn fields(&self, answer: &Answer) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        for name in answer.headers.keys().map(http::HeaderName::as_str) {
            let is_compared =
                FIELDS.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family));
            if !is_compared || name.starts_with("x-tidegate-") {
                continue;
            }
            let values: Vec<&str> =
                answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
            let value = match name {
                "location" => self.absolute(values[0]),
                // nginx does not say in which encoding it takes passwords.
                "www-authenticate" => values[0].replace(", charset=\"UTF-8\"", ""),
                _ => values.join(", "),
            };
            fields.insert(name.to_owned(), value);
        }
        fields
    }

    /// Where a client goes: nginx makes URLs of paths, with its own port.
    fn absolute(&self, location: &str) -> String {
        let host = self.host.split(':').next().unwrap();
        let uri: Uri = location.parse().unwrap();
        match uri.authority() {
            None => format!("http://{host}{location}"),
            Some(authority) => {
                location.replacen(&format!("{}:{}", authority.host(), self.port), authority.host(), 1)
            }
        }
    }
}

fn decoded(answer: &Answer) -> Vec<u8> {
    let mut decoded = Vec::new();
    match answer.header("content-encoding") {
        None => decoded.extend_from_slice(&answer.body),
        Some(coding) => {
            assert_eq!(coding, "gzip");
            flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut decoded).unwrap();
        }
    }
    decoded
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert/nginx")
}

/// All files of the folder, for one server: the addresses are its own.
fn prepare(server: IpAddr, backends: &[Backend; 2], nobody: IpAddr) -> TempDir {
    let home = TempDir::new().unwrap();
    let [first, second] = backends;
    let filled = |text: String| {
        text.replace("$ADDRESS", &server.to_string())
            .replace("$BACKEND2", &second.address.to_string())
            .replace("$BACKEND", &first.address.to_string())
            .replace("$NOBODY", &format!("{nobody}:9"))
    };
    fs::create_dir(home.path().join("parts")).unwrap();
    for part in ["", "parts"] {
        for file in fs::read_dir(folder().join(part))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|file| file.is_file())
        {
            let to = home.path().join(part).join(file.file_name().unwrap());
            fs::write(to, filled(fs::read_to_string(&file).unwrap())).unwrap();
        }
    }
    home
}

/// It listens once it says by which means it waits for events.
async fn start_nginx(home: &TempDir, name: &str) -> Process {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {of};\n"))
        .concat();
    let main = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr notice; events {{}}\n\
         http {{ access_log off;\n{temporary}include {name}.conf; }}\n"
    );
    fs::write(home.path().join("main.conf"), main).unwrap();
    let mut command = installed("nginx");
    command.arg("-p").arg(home.path()).arg("-c").arg(home.path().join("main.conf"));
    let process = Process::spawn(command);
    process.find("that nginx serves", |line| line.contains("event method").then_some(())).await;
    process
}

async fn run(name: String) {
    let case: Case =
        serde_yaml::from_str(&fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap()).unwrap();
    let backends = [Backend::start("1").await, Backend::start("2").await];
    let nobody = own_address().ip();
    let (of_nginx, of_gateway) = (own_address().ip(), own_address().ip());
    let nginx_home = prepare(of_nginx, &backends, nobody);
    let _nginx = start_nginx(&nginx_home, &name).await;
    let home = prepare(of_gateway, &backends, nobody);
    let converted =
        tidegate::convert::nginx::convert(&home.path().join(format!("{name}.conf")), None).unwrap();
    let left: Vec<String> = converted.left.iter().map(ToString::to_string).collect();
    let yaml = format!("admin: false\n{}", converted.file);
    assert!(left.iter().all(|left| yaml.contains(left)), "not each of {left:?} is a comment in:\n{yaml}");
    let is_expected = |line: &String| case.left.iter().any(|words| line.contains(words));
    assert!(left.len() == case.left.len() && left.iter().all(is_expected), "{left:?}, not {:?}", case.left);
    let _gateway = Gateway::start_in(home, &yaml, &[]).await;
    for asked in &case.requests {
        let (theirs, ours) = (asked.ask(of_nginx).await, asked.ask(of_gateway).await);
        assert_eq!(theirs["status"], asked.status, "nginx to {asked:?}: {theirs}");
        assert_eq!(ours, theirs, "{name}: the answer to {asked:?}, and nginx's, with:\n{yaml}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_and_the_converted_file_answer_alike() {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "conf"))
        .map(|file| file.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 30, "{names:?}");
    // On tasks of their own, so that one failure does not hide another; a few at a time, since each starts two servers.
    let running = names.into_iter().map(|name| async move { (name.clone(), tokio::spawn(run(name)).await) });
    let ended: Vec<_> =
        futures::StreamExt::collect(futures::StreamExt::buffer_unordered(futures::stream::iter(running), 8))
            .await;
    let failed: Vec<_> = ended.iter().filter(|(_, ended)| ended.is_err()).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "{failed:?} failed; what they said stands above");
}
