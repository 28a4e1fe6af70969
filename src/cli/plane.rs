//! Where a control plane is, for the commands that ask one.

use std::path::PathBuf;

use clap::Args;
use http::uri::Authority;

use super::{
    client::{Place, Target, TlsArgs, Words, place, reachable, secure, token},
    failure,
};
use crate::{
    app::{Failure, Source},
    config::{Certificate, Path, Problems, Secret},
};

const DEFAULT: &str = "127.0.0.1:9902";
const WORDS: Words = Words {
    what: "control plane",
    api: "tidegate's control plane",
    setting: "control.serve.address",
    token: "TIDEGATE_CONTROL_TOKEN",
    hint: "give --server or -c",
};
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Where the control plane listens; https://HOST:PORT where that speaks TLS [default: 127.0.0.1:9902]
    #[arg(long, value_name = "ADDRESS", value_parser = |text: &str| place(text, &WORDS))]
    server: Option<Place>,
    /// Take the address from this configuration, which has `control.serve`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A token of its `authorize`; better in the environment variable TIDEGATE_CONTROL_TOKEN, where other users do not see it
    #[arg(long, value_parser = |token: &str| Ok::<_, std::convert::Infallible>(Secret::new(token)))]
    token: Option<Secret>,
    #[command(flatten)]
    tls: TlsArgs,
}

impl ServerArgs {
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let (mut at, mut shown) = (Authority::from_static(DEFAULT), None);
        if let Some(file) = &self.config {
            let loaded = Source::File(file.clone()).load()?;
            let Some(serve) = loaded.config().map_err(Problems::clone)?.serves_control() else {
                return Err(failure(format!(
                    "{}: there is no `control.serve` (give --server)",
                    file.display()
                )));
            };
            at = reachable(&serve.address, &WORDS)
                .map_err(|why| failure(format!("{}: {why}", file.display())))?;
            let certificates = Path::root().key("control").key("serve").key("tls").key("certificates");
            shown = serve.tls.as_ref().and_then(|tls| match tls.shown().first() {
                Some(Certificate::Files(files)) => {
                    Some(loaded.sources.full_path(&certificates.index(0).key("cert"), &files.cert))
                }
                _ => None,
            });
        }
        let place = self.server.as_ref();
        let secure = secure(&self.tls, place, shown.as_deref(), "--server").map_err(failure)?;
        let token = token(self.token.as_ref(), &WORDS);
        Ok(Target { at: place.map_or(at, |place| place.at.clone()), token, secure, words: &WORDS })
    }
}
