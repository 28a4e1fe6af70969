//! Where the files of Secrets and ConfigMaps lie: as if each were mounted at `certs/NAMESPACE/NAME`.

use crate::convert::{draft::Map, fields::literal};

pub(crate) fn path(namespace: &str, name: &str, file: &str) -> String {
    // Names of Kubernetes hold no slashes; what else stands here leads nowhere else.
    let segment = |text: &str| literal(&text.replace(['/', '\\'], "_").replace("..", "_"));
    format!("certs/{}/{}/{file}", segment(namespace), segment(name))
}

pub(crate) fn pair(namespace: &str, name: &str) -> Map {
    Map::new().with("cert", path(namespace, name, "tls.crt")).with("key", path(namespace, name, "tls.key"))
}
