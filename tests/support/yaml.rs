//! Configurations of one listener, `main`, that read as a sentence: `Yaml::to(address).route("timeout: 1s").start()`.
//! Settings are in flow style, without the braces around them.

use std::fmt::{self, Display, Formatter};

use super::Gateway;

#[derive(Clone, Debug, Default)]
pub(crate) struct Yaml {
    top: String,
    listener: String,
    first_routes: String,
    route: String,
    endpoints: Vec<String>,
    settings: String,
    upstreams: String,
}

impl Yaml {
    /// Without a route or an upstream.
    pub(crate) fn new() -> Yaml {
        Yaml::default()
    }

    /// A route `r` for everything, to the upstream `origin` with this endpoint.
    pub(crate) fn to(endpoint: impl Display) -> Yaml {
        Yaml::to_all([endpoint])
    }

    /// The same with several.
    pub(crate) fn to_all(endpoints: impl IntoIterator<Item: Display>) -> Yaml {
        Yaml { endpoints: quoted(endpoints), ..Yaml::default() }
    }

    /// What more stands in that route.
    pub(crate) fn route(self, route: &str) -> Yaml {
        Yaml { route: route.into(), ..self }
    }

    /// What more stands in that upstream.
    pub(crate) fn settings(self, settings: &str) -> Yaml {
        Yaml { settings: settings.into(), ..self }
    }

    /// What more stands in the listener.
    pub(crate) fn listener(self, listener: &str) -> Yaml {
        Yaml { listener: listener.into(), ..self }
    }

    /// The same, for its limits.
    pub(crate) fn limits(self, limits: &str) -> Yaml {
        self.listener(&format!("limits: {{{limits}}}"))
    }

    /// Lines at the top level.
    pub(crate) fn top(mut self, lines: &str) -> Yaml {
        self.top += &format!("{lines}\n");
        self
    }

    /// One more route, which is looked at before that for everything.
    pub(crate) fn with_route(mut self, route: &str) -> Yaml {
        self.first_routes += &format!("- {{{route}}}\n");
        self
    }

    /// One more upstream.
    pub(crate) fn with_upstream(
        mut self,
        name: &str,
        endpoints: impl IntoIterator<Item: Display>,
        settings: &str,
    ) -> Yaml {
        self.upstreams += &format!("  {name}: {{endpoints: {:?}, {settings}}}\n", quoted(endpoints));
        self
    }

    /// A gateway with it, which is ready.
    pub(crate) async fn start(&self) -> Gateway {
        Gateway::start(&self.to_string()).await
    }
}

impl Display for Yaml {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Yaml { top, listener, first_routes, route, endpoints, settings, upstreams } = self;
        write!(out, "admin: {{address: '127.0.0.1:0'}}\n{top}")?;
        writeln!(out, "listeners:\n- {{name: main, address: '127.0.0.1:0', {listener}}}")?;
        if endpoints.is_empty() {
            return write!(out, "routes:\n{first_routes}upstreams:\n{upstreams}");
        }
        writeln!(out, "routes:\n{first_routes}- {{name: r, upstream: origin, {route}}}")?;
        write!(out, "upstreams:\n{upstreams}  origin: {{endpoints: {endpoints:?}, {settings}}}\n")
    }
}

fn quoted(endpoints: impl IntoIterator<Item: Display>) -> Vec<String> {
    endpoints.into_iter().map(|endpoint| endpoint.to_string()).collect()
}
