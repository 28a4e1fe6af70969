//! ReferenceGrants: who may name what in another namespace (<https://gateway-api.sigs.k8s.io/api-types/referencegrant/>).

use super::objects::{Name, Object};
use crate::convert::fields::{Fields, Report};

const GROUP: &str = "gateway.networking.k8s.io";

#[derive(Debug)]
pub(crate) struct Grants<'f> {
    from: Vec<From<'f>>,
}

#[derive(Debug)]
struct From<'f> {
    kind: &'f str,
    namespace: &'f str,
    /// Where the grant stands, and so what it is about.
    to_namespace: &'f str,
    to_kind: &'f str,
    /// All where there is none.
    to_name: Option<&'f str>,
}

impl<'f> Grants<'f> {
    pub(crate) fn read(grants: &[Object<'f>], report: &mut Report) -> Grants<'f> {
        let mut read = Grants { from: Vec::new() };
        for grant in grants {
            let mut spec = Fields::of("spec", grant.spec, report);
            let (from, to) = (spec.list("from", report), spec.list("to", report));
            for to in to {
                let group = to.find_text("group").unwrap_or_default();
                for from in from.iter().filter(|from| from.find_text("group") == Some(GROUP)) {
                    let (Some(kind), Some(namespace), Some(to_kind)) =
                        (from.find_text("kind"), from.find_text("namespace"), to.find_text("kind"))
                    else {
                        continue;
                    };
                    if group.is_empty() {
                        let to_name = to.find_text("name");
                        read.from.push(From {
                            kind,
                            namespace,
                            to_namespace: grant.namespace,
                            to_kind,
                            to_name,
                        });
                    }
                }
            }
        }
        read
    }

    /// Whether an object of `kind` in `namespace` may name `to`, which is of the core group.
    pub(crate) fn allow(&self, kind: &str, namespace: &str, to_kind: &str, to: Name<'_>) -> bool {
        namespace == to.0
            || self.from.iter().any(|from| {
                from.kind == kind
                    && from.namespace == namespace
                    && from.to_namespace == to.0
                    && from.to_kind == to_kind
                    && from.to_name.is_none_or(|name| name == to.1)
            })
    }
}
