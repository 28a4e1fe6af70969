//! dns-01: somebody else writes the record, since every DNS server is told in another way. A command of the operator's, or a
//! web service, is told which record is to be there and when it may go.

use std::{fmt, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use serde_json::json;
use tokio::process::{Child, Command};

use super::trouble::{Reason, Trouble};
use crate::{
    fetch::{Client, Options},
    names::Resolve,
    resources::children,
};

#[derive(Clone, PartialEq)]
pub struct HookSettings {
    pub by: HookKind,
    /// Of one call.
    pub timeout: Duration,
    /// Between the record's coming and the CA's looking: servers of DNS take a while to agree.
    pub wait: Duration,
}

#[derive(Clone, PartialEq)]
pub enum HookKind {
    /// A program and its first arguments.
    Command(Vec<String>),
    /// Where, and what is said as `Authorization`.
    Webhook { url: String, authorization: Option<String> },
}

/// What a web service may hold forth.
const LARGEST: usize = 16 * 1024;

impl fmt::Debug for HookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match &self.by {
            HookKind::Command(command) => command.first().map_or("", String::as_str),
            HookKind::Webhook { url, .. } => url,
        };
        f.debug_tuple("HookSettings").field(&by).finish()
    }
}

pub(super) struct Hook {
    settings: HookSettings,
    client: Result<Client, String>,
}

impl Hook {
    pub(super) fn new(settings: HookSettings, names: Arc<dyn Resolve>) -> Hook {
        let client = Client::new(&Options::default(), names).map_err(|error| error.to_string());
        Hook { settings, client }
    }

    /// `name` is what the certificate is for, without a star.
    pub(super) async fn present(&self, name: &str, value: &str) -> Result<(), Trouble> {
        self.call("present", name, value).await?;
        tokio::time::sleep(self.settings.wait).await;
        Ok(())
    }

    pub(super) async fn clean_up(&self, name: &str, value: &str) -> Result<(), Trouble> {
        self.call("cleanup", name, value).await
    }

    async fn call(&self, action: &str, name: &str, value: &str) -> Result<(), Trouble> {
        let record = format!("_acme-challenge.{name}");
        match &self.settings.by {
            HookKind::Command(command) => self.run(command, [action, &record, value]).await,
            HookKind::Webhook { url, authorization } => {
                let body = json!({"action": action, "name": record, "type": "TXT", "value": value});
                self.post(url, authorization.as_deref(), body.to_string()).await
            }
        }
    }

    /// Without a shell: what is said to it is taken as it is.
    async fn run(&self, command: &[String], more: [&str; 3]) -> Result<(), Trouble> {
        let failed = |why: String| Trouble::new(Reason::Hook, why);
        let Some((program, arguments)) = command.split_first() else {
            return Err(failed("there is no command".to_owned()));
        };
        let mut command = Command::new(program);
        command.args(arguments).args(more).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (child, _own) = children::start(|| command.spawn(), Child::id)
            .map_err(|error| failed(format!("{program} cannot be started: {error}")))?;
        let ended = tokio::time::timeout(self.settings.timeout, child.wait_with_output()).await;
        match ended {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.lines().last().unwrap_or_default();
                Err(failed(format!("{program} {} ended with {}: {last}", more[0], output.status)))
            }
            Ok(Err(error)) => Err(failed(format!("{program} cannot be waited for: {error}"))),
            Err(_) => Err(failed(format!("{program} {} did not end in time", more[0]))),
        }
    }

    async fn post(&self, url: &str, authorization: Option<&str>, body: String) -> Result<(), Trouble> {
        let failed = |why: String| Trouble::new(Reason::Hook, why);
        let client = self.client.as_ref().map_err(|why| failed(why.clone()))?;
        let mut request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Bytes::from(body)).map_err(|error| failed(error.to_string()))?;
        let sent = client.send(request, self.settings.timeout, LARGEST).await;
        let answer = sent.map_err(|error| failed(format!("the webhook of dns-01: {error}")))?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(failed(format!("the webhook of dns-01 answers {}", answer.status().as_u16()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(command: &[&str]) -> Hook {
        let by = HookKind::Command(command.iter().map(ToString::to_string).collect());
        let settings = HookSettings { by, timeout: Duration::from_millis(300), wait: Duration::ZERO };
        Hook::new(settings, Arc::new(crate::names::SystemResolver::new()))
    }

    #[tokio::test]
    async fn a_command_is_told_which_record() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let script = format!("echo \"$@\" >> {}", told.display());
        let hook = hook(&["sh", "-c", &script, "hook"]);
        hook.present("a.example", "v-1").await.unwrap();
        hook.clean_up("a.example", "v-1").await.unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        assert_eq!(told, "present _acme-challenge.a.example v-1\ncleanup _acme-challenge.a.example v-1\n");
    }

    #[tokio::test]
    async fn one_that_fails_or_hangs_or_is_not_there_says_so() {
        for (command, said) in [
            (&["sh", "-c", "echo denied >&2; exit 3"][..], "denied"),
            (&["sh", "-c", "exec sleep 1000"], "in time"),
            (&["/nowhere/at/all"], "cannot be started"),
        ] {
            let trouble = hook(command).present("a.example", "v").await.unwrap_err();
            assert_eq!(trouble.reason, Reason::Hook);
            assert!(trouble.why.contains(said), "{trouble}");
        }
    }
}
