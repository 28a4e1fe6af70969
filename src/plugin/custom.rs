//! The metrics that a plugin defines: one series for each name, however many instances define it. Names that are the same once
//! they are exposed are one.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use regex::Regex;

use super::view::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Upper bounds of a histogram's buckets. Plugins mostly measure milliseconds.
pub(crate) const BUCKETS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 10_000];

#[derive(Default)]
pub(super) struct Custom {
    inner: Mutex<Inner>,
    /// Labels that are cut out of names; the first group is the value.
    labels: Vec<(String, Regex)>,
}

#[derive(Default)]
struct Inner {
    ids: HashMap<(Kind, String), u32>,
    metrics: Vec<Metric>,
    /// Names of samples, and which metric has them.
    samples: HashMap<String, (Kind, String)>,
}

struct Metric {
    kind: Kind,
    name: String,
    labels: Vec<(String, String)>,
    value: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
}

/// As it is when somebody looks.
pub(crate) struct Shown {
    pub kind: Kind,
    pub name: String,
    pub labels: Vec<(String, String)>,
    /// Of a histogram: the sum.
    pub value: u64,
    pub count: u64,
    /// Observations up to each bound.
    pub buckets: Vec<u64>,
}

impl Custom {
    pub(super) fn new(labels: &[(String, String)]) -> Custom {
        // They were looked at when the configuration was.
        let compiled = |(name, regex): &(String, String)| Some((name.clone(), Regex::new(regex).ok()?));
        Custom { inner: Mutex::default(), labels: labels.iter().filter_map(compiled).collect() }
    }

    pub(super) fn define(&self, kind: i32, name: &[u8], most: usize) -> Result<u32, Status> {
        let kind = match kind {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => Kind::Histogram,
            _ => return Err(Status::BadArgument),
        };
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        if name.is_empty() || name.len() > 1024 {
            return Err(Status::BadArgument);
        }
        let mut inner = self.lock();
        let key = (kind, name.to_owned());
        if let Some(id) = inner.ids.get(&key) {
            return Ok(*id);
        }
        let (name, labels) = self.cut(name);
        let is_same = |metric: &Metric| metric.kind == kind && metric.name == name && metric.labels == labels;
        if let Some(at) = inner.metrics.iter().position(is_same) {
            return Ok(number(at));
        }
        let owner = (kind, name);
        let samples = samples(kind, &owner.1);
        if samples.iter().any(|sample| inner.samples.get(sample).is_some_and(|other| *other != owner)) {
            return Err(Status::BadArgument);
        }
        if inner.metrics.len() >= most {
            return Err(Status::InternalFailure);
        }
        inner.samples.extend(samples.into_iter().map(|sample| (sample, owner.clone())));
        inner.metrics.push(Metric {
            kind,
            name: owner.1,
            labels,
            value: AtomicU64::new(0),
            buckets: Default::default(),
            count: AtomicU64::new(0),
        });
        let id = number(inner.metrics.len() - 1);
        inner.ids.insert(key, id);
        Ok(id)
    }

    pub(super) fn increment(&self, id: u32, by: i64) -> Result<(), Status> {
        self.with(id, |metric| match metric.kind {
            Kind::Counter if by > 0 => {
                metric.value.fetch_add(by.unsigned_abs(), Relaxed);
                Ok(())
            }
            // As many as there are at most are taken off a gauge: it is never below 0.
            Kind::Gauge => {
                let added = |value: u64| Some(value.saturating_add_signed(by));
                let _ = metric.value.fetch_update(Relaxed, Relaxed, added);
                Ok(())
            }
            Kind::Counter | Kind::Histogram => Err(Status::BadArgument),
        })
    }

    pub(super) fn record(&self, id: u32, value: u64) -> Result<(), Status> {
        self.with(id, |metric| {
            match metric.kind {
                // As Envoy does, whatever it is to mean.
                Kind::Counter => _ = metric.value.fetch_add(value, Relaxed),
                Kind::Gauge => metric.value.store(value, Relaxed),
                Kind::Histogram => {
                    metric.value.fetch_add(value, Relaxed);
                    metric.count.fetch_add(1, Relaxed);
                    if let Some(bucket) = BUCKETS.iter().position(|most| value <= *most) {
                        metric.buckets[bucket].fetch_add(1, Relaxed);
                    }
                }
            }
            Ok(())
        })
    }

    pub(super) fn value(&self, id: u32) -> Result<u64, Status> {
        self.with(id, |metric| match metric.kind {
            Kind::Histogram => Err(Status::BadArgument),
            Kind::Counter | Kind::Gauge => Ok(metric.value.load(Relaxed)),
        })
    }

    pub(super) fn shown(&self) -> Vec<Shown> {
        let inner = self.lock();
        let shown = inner.metrics.iter().map(|metric| {
            let mut below = 0;
            let buckets = metric.buckets.iter().map(|bucket| {
                below += bucket.load(Relaxed);
                below
            });
            Shown {
                kind: metric.kind,
                name: metric.name.clone(),
                labels: metric.labels.clone(),
                value: metric.value.load(Relaxed),
                count: metric.count.load(Relaxed),
                buckets: buckets.collect(),
            }
        });
        shown.collect()
    }

    fn cut(&self, name: &str) -> (String, Vec<(String, String)>) {
        let (mut name, mut labels) = (name.to_owned(), Vec::new());
        for (label, regex) in &self.labels {
            let Some(found) = regex.captures(&name) else { continue };
            let Some((all, value)) = found.get(0).zip(found.get(1)) else { continue };
            labels.push((label.clone(), value.as_str().to_owned()));
            let range = all.range();
            name.replace_range(range, "");
        }
        (exposed(&name), labels)
    }

    fn with<T>(&self, id: u32, use_it: impl FnOnce(&Metric) -> Result<T, Status>) -> Result<T, Status> {
        let inner = self.lock();
        let at = id.checked_sub(1).ok_or(Status::NotFound)? as usize;
        use_it(inner.metrics.get(at).ok_or(Status::NotFound)?)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at + 1).unwrap_or(u32::MAX)
}

/// Other characters than a name may have become `_`.
fn exposed(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// The names under which a metric's values are exposed.
fn samples(kind: Kind, name: &str) -> Vec<String> {
    let ends: &[&str] = match kind {
        Kind::Counter | Kind::Gauge => &[""],
        Kind::Histogram => &["", "_bucket", "_sum", "_count"],
    };
    ends.iter().map(|end| format!("{name}{end}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_cut_out_of_names() {
        let custom =
            Custom::new(&[("value".into(), "_value=([a-z]+)".into()), ("none".into(), "x=(y)".into())]);
        custom.define(0, b"hits_value=blue", 4).unwrap();
        let shown = &custom.shown()[0];
        assert_eq!(
            (shown.name.as_str(), shown.labels.as_slice()),
            ("hits", &[("value".into(), "blue".into())][..])
        );
    }

    #[test]
    fn names_that_are_exposed_as_one_are_one_and_of_one_kind() {
        let custom = Custom::default();
        let define = |kind, name: &str| custom.define(kind, name.as_bytes(), 3);
        let one = define(0, "a.b").unwrap();
        assert_eq!((define(0, "a_b"), define(0, "a-b")), (Ok(one), Ok(one)));
        assert_eq!(
            (define(1, "a b"), define(2, "a-b")),
            (Err(Status::BadArgument), Err(Status::BadArgument))
        );
        define(2, "time").unwrap();
        assert_eq!(define(0, "time.count"), Err(Status::BadArgument));
        define(1, "all_sum").unwrap();
        assert_eq!(define(2, "all"), Err(Status::BadArgument));
        let shown: Vec<String> = custom.shown().into_iter().map(|shown| shown.name).collect();
        assert_eq!(shown, ["a_b", "time", "all_sum"]);
    }

    #[test]
    fn one_name_is_one_series_and_each_kind_has_its_own_rules() {
        let custom = Custom::default();
        let define = |kind, name: &str| custom.define(kind, name.as_bytes(), 4);
        let (counter, gauge, histogram) =
            (define(0, "a").unwrap(), define(1, "b").unwrap(), define(2, "c").unwrap());
        assert_eq!(define(0, "a"), Ok(counter));
        assert_eq!(define(3, "d"), Err(Status::BadArgument));
        define(0, "d").unwrap();
        assert_eq!(define(0, "e"), Err(Status::InternalFailure));
        custom.increment(counter, 3).unwrap();
        assert_eq!(custom.increment(counter, -1), Err(Status::BadArgument));
        custom.record(counter, 2).unwrap();
        assert_eq!(custom.value(counter), Ok(5));
        custom.record(gauge, 5).unwrap();
        custom.increment(gauge, -7).unwrap();
        assert_eq!(custom.value(gauge), Ok(0));
        [1, 3, 20_000].iter().for_each(|value| custom.record(histogram, *value).unwrap());
        assert_eq!(custom.value(histogram), Err(Status::BadArgument));
        assert_eq!(custom.value(99), Err(Status::NotFound));
        assert_eq!(custom.value(0), Err(Status::NotFound));
        let shown = custom.shown();
        let (sum, count, first_three) = (shown[2].value, shown[2].count, &shown[2].buckets[..3]);
        assert_eq!((sum, count, first_three), (20_004, 3, &[1, 1, 2][..]));
    }
}
