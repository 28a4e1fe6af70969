//! How many requests an upstream can do at once, learnt from how long it takes to answer (adaptive concurrency).
//!
//! An upstream that is given more than it can do answers no more of them, only later. So the median response time of the
//! last moment is compared with that of an upstream at ease, the *baseline*: while it is longer by more than the tolerance, the
//! limit shrinks in proportion (the gradient of Netflix's concurrency-limits and of Envoy's filter); otherwise it grows by a few
//! places, at the start by as many as there are. The median, because requests of many kinds have slow ones at all times.
//!
//! The baseline is where these two and we differ. A mean of the past drifts upwards with a load that lasts, and going
//! down to three requests every minute refuses nearly all of them meanwhile. Here each window in which at most half of the limit was used
//! is a measurement, and says the more the less of it was used: a limit that nobody has needed yet may be far above what the upstream can
//! do. Under a load that lasts there is none, so now and then the limit is halved until enough has been answered. Half is enough: the
//! limit settles below twice of what the upstream can do.
//!
//! An upstream may also become slower by itself, with nothing queued. Then a lower limit does not shorten its answers, it only
//! costs throughput, which does not change while there is a queue. That is seen when the limit has fallen to half, and the time
//! of now becomes the baseline.
//!
//! It holds no clock: callers pass `now`.

use std::time::{Duration, Instant};

use super::histogram::Histogram;

/// A window is no shorter.
const WINDOW: Duration = Duration::from_millis(100);

/// Fewer answers than these say nothing.
const ENOUGH: u32 = 50;

/// For a baseline that is kept for long, unless they take longer than this, or than some of them after each other.
const ENOUGH_TO_KEEP: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(1);

/// No window takes more than this from the limit.
const STEEPEST: f64 = 0.5;

/// How much a window changes the baseline in which next to nothing of the limit was used.
const FADE: f64 = 0.3;

/// When the limit has fallen to this share, and the throughput below that one, the limit is what costs it.
const FALLEN: f64 = 0.5;
const LESS_DONE: f64 = 0.75;

/// Measuring under load takes no more than one part in so many of the time, and while the baseline may still be that of a queue, one in
/// so many.
const RARELY: u32 = 20;
const OFTEN: u32 = 4;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Until something is known.
    pub initial: usize,
    pub min: usize,
    pub max: usize,
    /// How much longer than the baseline answers may take: 0.25 is a quarter.
    pub tolerance: f64,
    /// How often the baseline is measured under a load that lasts.
    pub baseline_interval: Duration,
}

pub struct Gradient {
    settings: Settings,
    limit: f64,
    /// Nothing has been too much yet.
    is_starting: bool,
    baseline: Option<Duration>,
    /// The limit is halved for now, since then.
    measuring: Option<Instant>,
    measure_at: Instant,
    falling: Falling,
    window: Window,
}

/// Since the limit last grew.
#[derive(Clone, Copy)]
enum Falling {
    Not,
    /// In a window that may have begun before there was too much.
    Begun,
    /// From this limit, at which so many were answered in a second.
    From {
        limit: f64,
        throughput: f64,
    },
}

/// The answers since `from`.
struct Window {
    from: Instant,
    answers: Histogram,
    count: u32,
    /// Most that were in flight.
    peak: usize,
    /// Somebody found no place.
    has_refused: bool,
    /// The median of the window before.
    usual: Option<Duration>,
}

impl Gradient {
    pub fn new(settings: Settings, now: Instant) -> Gradient {
        let window = Window {
            from: now,
            answers: Histogram::new(),
            count: 0,
            peak: 0,
            has_refused: false,
            usual: None,
        };
        Gradient {
            limit: settings.initial.clamp(settings.min, settings.max) as f64,
            settings,
            is_starting: true,
            baseline: None,
            measuring: None,
            measure_at: now,
            falling: Falling::Not,
            window,
        }
    }

    /// So many may be in flight.
    pub fn limit(&self) -> usize {
        let limit = self.limit as usize;
        match self.measuring {
            Some(_) => (limit / 2).max(self.settings.min),
            None => limit,
        }
    }

    /// The median time that an answer takes while the upstream is at ease.
    pub fn baseline(&self) -> Option<Duration> {
        self.baseline
    }

    /// One more has begun, and with it so many are in flight.
    pub fn began(&mut self, in_flight: usize, now: Instant) {
        if now >= self.window.from {
            self.window.peak = self.window.peak.max(in_flight);
        }
    }

    /// One more was refused, as there was no place for it.
    pub fn refused(&mut self) {
        self.window.has_refused = true;
    }

    /// One was answered after `took`. One that failed, or was given up, says something only if that took long: a quick failure
    /// must not look like a fast upstream.
    pub fn answered(&mut self, took: Duration, is_good: bool, now: Instant) {
        let usual = self.window.usual.or(self.baseline);
        if now < self.window.from || !is_good && usual.is_none_or(|usual| took <= usual) {
            return;
        }
        self.window.answers.record(took);
        self.window.count += 1;
        let lasts = now.saturating_duration_since(self.window.from);
        if self.is_enough(usual.unwrap_or_default(), lasts)
            && let Some(median) = self.window.answers.take().quantile(0.5)
        {
            self.close(median, f64::from(self.window.count) / lasts.as_secs_f64(), now);
        }
    }

    fn is_enough(&self, usual: Duration, lasts: Duration) -> bool {
        let is_kept = self.measuring.is_some() || self.baseline.is_none();
        let is_kept = is_kept && lasts < PATIENCE.max(4 * usual);
        self.window.count >= if is_kept { ENOUGH_TO_KEEP } else { ENOUGH } && lasts >= usual.max(WINDOW)
    }

    /// So long did half of the answers take at most, and so many were there in a second.
    fn close(&mut self, median: Duration, throughput: f64, now: Instant) {
        let before = self.limit();
        // The least important have fewer places than the limit: few in flight are not few that came.
        let is_at_ease = self.window.peak * 2 <= before && !self.window.has_refused;
        match (self.measuring.take(), self.baseline) {
            (Some(since), before) => {
                self.baseline = Some(median);
                // The first look may still be at a queue, and half of that is nearer to the truth.
                let is_settled =
                    before.is_some_and(|before| median.as_secs_f64() > 0.8 * before.as_secs_f64());
                let took = now.saturating_duration_since(since);
                self.measure_at = now
                    + match is_settled {
                        true => self.settings.baseline_interval.max(took.saturating_mul(RARELY)),
                        false => took.saturating_mul(OFTEN),
                    };
            }
            (None, Some(baseline)) if is_at_ease => {
                let used = self.window.peak as f64 / before as f64;
                let fade = FADE * (1.0 - 2.0 * used);
                self.baseline = Some(baseline.mul_f64(1.0 - fade) + median.mul_f64(fade));
                if used <= 0.25 {
                    self.measure_at = now + self.settings.baseline_interval;
                }
                self.falling = Falling::Not;
            }
            (None, None) if is_at_ease => self.baseline = Some(median),
            (None, None) => self.measuring = Some(now),
            (None, Some(_)) if now >= self.measure_at => self.measuring = Some(now),
            (None, Some(baseline)) => self.adjust(baseline, median, throughput, now),
        }
        // What was begun under another limit says nothing about this one.
        let deaf = if self.limit() == before { Duration::ZERO } else { median };
        self.window.from = now + deaf;
        self.window.count = 0;
        self.window.peak = 0;
        self.window.has_refused = false;
        self.window.usual = Some(median);
    }

    fn adjust(&mut self, baseline: Duration, median: Duration, throughput: f64, now: Instant) {
        let Settings { tolerance, min, max, .. } = self.settings;
        let gradient = (baseline.as_secs_f64() * (1.0 + tolerance) / median.as_secs_f64().max(1e-6))
            .clamp(STEEPEST, 1.0);
        if gradient < 1.0 {
            self.is_starting = false;
            self.falling = match self.falling {
                Falling::Not => Falling::Begun,
                Falling::Begun => Falling::From { limit: self.limit, throughput },
                Falling::From { limit, throughput: before }
                    if self.limit <= FALLEN * limit && throughput <= LESS_DONE * before =>
                {
                    self.baseline = Some(median);
                    // What was too much may not have been answered yet.
                    self.measure_at = now + median.saturating_mul(OFTEN);
                    self.falling = Falling::Not;
                    return;
                }
                from => from,
            };
        }
        // In proportion to the noise that there is in what so many bring.
        let headroom = (self.limit.sqrt() / 2.0).max(1.0);
        let next = match self.is_starting {
            true => self.limit * 2.0,
            false => self.limit * gradient + headroom,
        };
        let next = match next > self.limit {
            true => {
                self.falling = Falling::Not;
                // What nobody needs is not known to be good.
                match self.window.has_refused {
                    true => next,
                    false => next.min(self.limit.max(2.0 * self.window.peak as f64)),
                }
            }
            false => next,
        };
        self.limit = next.clamp(min as f64, max as f64);
    }
}

#[cfg(test)]
mod simulation;
