//! What an operator wants to read in the access log beyond what always stands there, and of which requests.

use std::sync::Arc;

use crate::{
    filter::{Exchange, Template},
    observe::access::Layout,
    route::{Request, Rule},
};

pub struct OwnLines {
    pub layout: Arc<Layout>,
    /// In the order of the layout.
    pub(super) values: Vec<Template>,
    /// What a request must look like; none means any.
    pub(super) rule: Option<Rule>,
}

impl OwnLines {
    pub(crate) fn is_for(&self, request: &Request<'_>) -> bool {
        self.rule.as_ref().is_none_or(|rule| rule.matches(request))
    }

    pub(crate) fn values(&self, exchange: &Exchange<'_>) -> Vec<String> {
        self.values.iter().map(|template| template.fill(exchange)).collect()
    }
}
