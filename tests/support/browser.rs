//! Debian's Chromium, driven by Playwright (`browser.py`). All tests that run at the same time share one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Value, json};

use super::{Process, installed::installed, python};

static SHARED: Mutex<Weak<Browser>> = Mutex::new(Weak::new());

struct Browser {
    process: Process,
    deeds: AtomicU64,
}

/// A page in a context of its own: no cookie of another's. What went wrong in it fails the test that closes it.
pub(crate) struct Page {
    browser: Arc<Browser>,
    name: String,
    origin: String,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub width: u32,
    pub height: u32,
    pub scheme: &'static str,
    /// By axe, for which the page's own policy is put aside.
    pub audited: bool,
}

impl Default for Look {
    fn default() -> Look {
        Look { width: 1440, height: 900, scheme: "light", audited: false }
    }
}

impl Browser {
    fn shared() -> Arc<Browser> {
        let mut shared = SHARED.lock().unwrap();
        if let Some(browser) = shared.upgrade() {
            return browser;
        }
        let mut command = python::script("browser.py");
        command.arg(installed("chromium").get_program());
        let browser =
            Arc::new(Browser { process: Process::spawn_with_input(command), deeds: AtomicU64::default() });
        *shared = Arc::downgrade(&browser);
        browser
    }

    async fn answer(&self, deed: &str, arguments: Value) -> Result<Value, String> {
        let number = self.deeds.fetch_add(1, Relaxed);
        self.process.write_line(&json!([number, deed, arguments]).to_string());
        let begin = format!("{{\"number\": {number}, ");
        let what = format!("{deed} {arguments}");
        let found = self.process.find(&what, |line| {
            let mut answer: HashMap<String, Value> =
                line.starts_with(&begin).then(|| serde_json::from_str(line).unwrap())?;
            Some(match answer.remove("error") {
                Some(error) => Err(error.as_str().unwrap_or_default().to_owned()),
                None => Ok(answer.remove("value").unwrap_or_default()),
            })
        });
        found.await
    }
}

impl Page {
    /// The console of the gateway whose API is there, at `view`, such as `routes?q=a`.
    pub(crate) async fn open(admin: SocketAddr, view: &str) -> Page {
        Page::look(admin, view, Look::default()).await
    }

    pub(crate) async fn look(admin: SocketAddr, view: &str, look: Look) -> Page {
        Page::at(&format!("http://{admin}"), view, look).await
    }

    /// Any page, which may send the browser to other origins.
    pub(crate) async fn visit(url: &str) -> Page {
        let page = Page::new("");
        page.does("open", json!({"url": url, "travels": true})).await;
        page
    }

    fn new(origin: &str) -> Page {
        let browser = Browser::shared();
        let name = format!("page{}", browser.deeds.fetch_add(1, Relaxed));
        Page { browser, name, origin: origin.to_owned() }
    }

    pub(crate) async fn at(origin: &str, view: &str, look: Look) -> Page {
        let page = Page::new(origin);
        let Look { width, height, scheme, audited } = look;
        let url = format!("{origin}/ui/#/{view}");
        page.does(
            "open",
            json!({"url": url, "width": width, "height": height, "scheme": scheme, "audited": audited}),
        )
        .await;
        page
    }

    async fn does(&self, deed: &str, mut arguments: Value) -> Value {
        arguments["page"] = json!(self.name);
        let answer = self.browser.answer(deed, arguments.clone()).await;
        answer.unwrap_or_else(|error| panic!("{deed} {arguments}: {error}"))
    }

    /// Goes to another view of the same page.
    pub(crate) async fn go(&self, view: &str) {
        self.does("goto", json!({"url": format!("{}/ui/#/{view}", self.origin)})).await;
    }

    /// Goes to any page.
    pub(crate) async fn go_to(&self, url: &str) {
        self.does("goto", json!({"url": url})).await;
    }

    /// What the browser keeps for that place, as Playwright shows it.
    pub(crate) async fn cookies(&self, url: &str) -> Vec<Value> {
        serde_json::from_value(self.does("cookies", json!({"url": url})).await).unwrap()
    }

    /// Waits until `text` is to be seen in what the selector names.
    pub(crate) async fn see(&self, selector: &str, text: &str) {
        self.does("see", json!({"where": selector, "text": text})).await;
    }

    pub(crate) async fn see_no(&self, selector: &str, text: &str) {
        self.does("see", json!({"where": selector, "text": text, "hidden": true})).await;
    }

    pub(crate) async fn click(&self, role: &str, name: &str) {
        self.does("click", json!({"role": role, "name": name})).await;
    }

    pub(crate) async fn click_in(&self, selector: &str, role: &str, name: &str) {
        self.does("click", json!({"role": role, "name": name, "inside": selector})).await;
    }

    pub(crate) async fn fill(&self, label: &str, text: &str) {
        self.does("type", json!({"label": label, "text": text})).await;
    }

    pub(crate) async fn press(&self, keys: &[&str]) {
        for key in keys {
            self.does("press", json!({"key": key})).await;
        }
    }

    pub(crate) async fn read(&self, selector: &str) -> String {
        self.does("read", json!({"where": selector})).await.as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        self.does("run", json!({"script": script})).await
    }

    /// Waits until the script says true.
    pub(crate) async fn until(&self, script: &str) {
        self.does("until", json!({"script": script})).await;
    }

    /// What axe finds against.
    pub(crate) async fn violations(&self) -> Vec<String> {
        serde_json::from_value(self.does("axe", json!({})).await).unwrap()
    }

    pub(crate) async fn shoot(&self, path: &Path) {
        self.does("shoot", json!({"path": path})).await;
    }

    /// From here on `sleep` and `wake` can be used.
    pub(crate) async fn take_clock(&self) {
        self.does("clock", json!({"what": "install"})).await;
    }

    pub(crate) async fn sleep(&self) {
        self.does("clock", json!({"what": "stop"})).await;
    }

    pub(crate) async fn wake(&self, seconds: u64) {
        self.does("clock", json!({"what": "wake", "seconds": seconds})).await;
    }

    /// Closes it whatever was reported.
    pub(crate) async fn abandon(self) {
        self.does("close", json!({})).await;
    }

    /// Closes it. Errors of scripts, reports of the policy, and requests to any other origin fail here.
    pub(crate) async fn close(self) {
        let troubles = self.does("close", json!({})).await;
        assert_eq!(troubles, json!([]), "{}", self.name);
    }
}
