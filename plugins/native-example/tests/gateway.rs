//! The built example as its operator sees it: each command knows the filter.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

const EXAMPLE: &str = env!("CARGO_BIN_EXE_native-example");
const FAULTY: &str = env!("CARGO_BIN_EXE_native-example-faulty");

/// So long may a busy machine take; nothing here waits for time to pass.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn check_compiles_the_example_and_knows_what_was_meant() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.yaml");
    let fine = run(EXAMPLE, &["check", "-c", example.to_str().unwrap()]);
    assert!(fine.status.success(), "{}", text(&fine.stderr));

    for (filter, told) in [
        ("shadw: {share: 10%}", "did you mean `shadow`?"),
        ("shadow: {share: 10%, mrk: x-other}", "mrk"),
        ("shadow: {share: 0%}", "listeners[0].filters[0].shadow.share: a share of 0% chooses nobody"),
    ] {
        let folder = Folder::with(&configuration(filter));
        let refused = run(EXAMPLE, &["check", "-c", folder.file()]);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{filter}: {said}");
        assert!(said.contains(told) && said.contains("gateway.yaml:3:"), "{filter}: {said}");
    }
}

#[test]
fn schema_describes_the_filter_and_explain_names_it() {
    let schema = text(&run(EXAMPLE, &["schema"]).stdout);
    assert!(schema.contains("\"shadow\"") && schema.contains("How many of the clients are chosen"));

    let folder = Folder::with(&configuration("shadow: {share: 10%}"));
    let explained = run(EXAMPLE, &["explain", "GET", "http://a.example/", "-c", folder.file()]);
    assert!(text(&explained.stdout).contains("filters   shadow"), "{}", text(&explained.stdout));
}

#[test]
fn a_request_is_marked_and_routed_by_its_mark_also_after_a_reload() {
    let mut gateway = Gateway::start(EXAMPLE, &configuration("shadow: {share: 50%, by: x-user-id}"));
    // Who is chosen is held by the filter's own tests.
    assert_eq!(gateway.get("x-user-id: user-7").1, "chosen");
    assert_eq!(gateway.get("x-user-id: user-9").1, "not chosen");
    assert_eq!(gateway.get("x-user-id: user-9\r\nx-shadow: yes").1, "not chosen");

    gateway.reload(&configuration("shadow: {share: 100%}, unless: {headers: {x-staff: 'yes'}}"));
    assert_eq!(gateway.get("x-user-id: user-9").1, "chosen");
    assert_eq!(gateway.get("x-staff: yes").1, "not chosen");
}

#[test]
fn a_panic_in_a_filter_costs_one_request() {
    let gateway = Gateway::start(FAULTY, &configuration("faulty: {}"));
    let (head, _) = gateway.get("x-panic: now");
    assert!(head.starts_with("HTTP/1.1 500") && head.contains("x-tidegate-reason: panic"), "{head}");
    assert_eq!(gateway.get("x-user-id: user-7").1, "not chosen");
}

#[test]
fn a_name_that_is_taken_ends_the_process_before_it_does_anything() {
    let ended = Command::new(FAULTY).arg("schema").env("FAULTY_IS_CORS", "1").output().unwrap();
    let said = text(&ended.stderr);
    assert!(!ended.status.success() && ended.stdout.is_empty());
    assert!(said.contains("filter `cors` cannot be added: there is one of that name"), "{said}");
    assert!(said.contains("faulty.rs"), "it says where: {said}");
}

/// With one filter in front of two routes, of which one takes what is marked.
fn configuration(filter: &str) -> String {
    format!(
        "admin: false\n\
         listeners:\n\
         \x20 - filters: [{{{filter}}}]\n\
         \x20   name: main\n\
         \x20   address: 127.0.0.1:0\n\
         routes:\n\
         \x20 - {{name: marked, match: {{headers: {{x-shadow: 'yes'}}}}, respond: {{body: chosen}}}}\n\
         \x20 - {{name: others, respond: {{body: not chosen}}}}\n"
    )
}

/// A command that ends by itself.
fn run(binary: &str, args: &[&str]) -> Output {
    Command::new(binary).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a gateway.yaml, for as long as it is held.
struct Folder(PathBuf);

impl Folder {
    fn with(yaml: &str) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).join("gateway.yaml"));
        fs::create_dir_all(folder.0.parent().unwrap()).unwrap();
        fs::write(&folder.0, yaml).unwrap();
        folder
    }

    fn file(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

struct Gateway {
    process: Child,
    log: BufReader<ChildStdout>,
    address: SocketAddr,
    folder: Folder,
}

impl Gateway {
    /// Runs it until it serves.
    fn start(binary: &str, yaml: &str) -> Gateway {
        let folder = Folder::with(yaml);
        let mut process = Command::new(binary)
            .args(["run", "-c", folder.file()])
            .env("TMPDIR", folder.0.parent().unwrap())
            .env_remove("XDG_RUNTIME_DIR")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let listening = line_with(&mut log, "\"listening\"");
        let (_, address) = listening.split_once("\"address\":\"").unwrap();
        let address = address.split_once('"').unwrap().0.parse().unwrap();
        line_with(&mut log, "\"ready\"");
        Gateway { process, log, address, folder }
    }

    fn reload(&mut self, yaml: &str) {
        fs::write(&self.folder.0, yaml).unwrap();
        let sent = Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let outcome = line_with(&mut self.log, "\"configuration ");
        assert!(outcome.contains("configuration reloaded"), "{outcome}");
    }

    /// The head and the body of the answer to a request with these fields.
    fn get(&self, fields: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n{fields}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

/// The next line of the log that holds this.
fn line_with(log: &mut BufReader<ChildStdout>, wanted: &str) -> String {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended without {wanted}, and said:\n{said}");
        if line.contains(wanted) {
            return line;
        }
        said += &line;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
