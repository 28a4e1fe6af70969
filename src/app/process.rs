//! What the admin API asks the process for, and cannot reach by itself.

use std::{sync::Arc, thread};

use serde_json::{Value, json};

use super::{background_thread::give_way, memory::resident};
use crate::{
    admin::{self, Checked, Memory, journal::PlacedProblem},
    config::{self, Problem, Problems, UNREAD},
    control::ShownPlane,
    filter::Registry,
    resources::Resources,
    snapshot::{Current, compile, diff_plan},
};

/// What problems call what was sent.
const GIVEN: &str = "given";

pub(super) struct Process {
    pub current: Current,
    pub registry: Arc<Registry>,
    pub resources: Arc<Resources>,
    /// The control plane that is served here.
    pub plane: Option<ShownPlane>,
}

impl admin::Process for Process {
    /// On a thread that gives way to those that serve: a megabyte of routes takes a while.
    fn check(&self, text: &str) -> Checked {
        let (current, registry, text) = (self.current.clone(), self.registry.clone(), text.to_owned());
        let checking = thread::Builder::new().name("check".into()).spawn(move || {
            give_way();
            check(&text, &current, &registry)
        });
        let checked = checking.ok().and_then(|checking| checking.join().ok());
        checked.unwrap_or_else(|| Checked::of(&Problem::new("checking it failed, see the log").into()))
    }

    fn control(&self) -> Option<Arc<dyn admin::Plane>> {
        self.plane.clone().map(|plane| Arc::new(PlaneView(plane)) as Arc<dyn admin::Plane>)
    }

    fn follows(&self) -> Value {
        let snapshot = self.current.pin();
        let Some(join) = snapshot.config.control.as_ref().and_then(|control| control.join.as_ref()) else {
            return Value::Null;
        };
        let received = snapshot.additions.received.as_ref();
        json!({
            "servers": join.servers,
            "config": join.config,
            "version": received.map(|received| received.version),
        })
    }

    fn memory(&self) -> Memory {
        Memory { resident: resident(), limit: self.resources.memory.limit() }
    }
}

fn check(text: &str, current: &Current, registry: &Arc<Registry>) -> Checked {
    let loaded = match config::parse_unread(text, GIVEN) {
        Ok(loaded) => loaded,
        Err(problems) => return Checked::of(&problems),
    };
    match compile(loaded, &registry.offline()) {
        Ok(plan) => {
            let current = current.pin();
            let changes = match plan.hash == current.hash {
                true => "nothing".to_owned(),
                false => diff_plan(&current, &plan).to_string(),
            };
            let warnings = plan.warnings.iter().map(PlacedProblem::of).collect();
            Checked { problems: Vec::new(), warnings, changes: Some(changes) }
        }
        Err(problems) => Checked::of(&problems),
    }
}

impl Checked {
    /// A file that was not read is no mistake: whoever checks is told that it was not looked at.
    fn of(problems: &Problems) -> Checked {
        let (unread, problems): (Vec<&Problem>, Vec<&Problem>) =
            problems.iter().partition(|problem| problem.message().contains(UNREAD));
        let unread = unread.into_iter().map(|problem| {
            let told = Problem::new("names a file, and a check reads none (`tidegate check` does)");
            let told = told.path(problem.whereabouts().clone());
            let told = match problem.location() {
                Some(at) => told.at(at.clone()),
                None => told,
            };
            PlacedProblem::of(&told)
        });
        Checked {
            warnings: unread.collect(),
            problems: problems.into_iter().map(PlacedProblem::of).collect(),
            changes: None,
        }
    }
}

struct PlaneView(ShownPlane);

impl admin::Plane for PlaneView {
    fn summary(&self) -> Value {
        self.0.summary()
    }

    fn services(&self) -> Value {
        self.0.services()
    }

    fn instances(&self, name: Option<&str>) -> Value {
        self.0.instances(name)
    }

    fn configs(&self) -> Value {
        self.0.configs()
    }

    fn versions(&self, name: &str) -> Option<Value> {
        self.0.versions(name)
    }

    fn rollouts(&self) -> Value {
        self.0.rollouts()
    }

    fn gateways(&self) -> Value {
        self.0.gateways()
    }
}
