//! Several copies of one piece of work run against each other; the first good answer wins and the rest is dropped,
//! which cancels it.
//!
//! A slow copy is helped by another one after a delay (hedging), a failed one is replaced at once. What a copy is, how
//! long the delay is and who pays for copies are the caller's; nothing here knows of HTTP.

use std::{future::Future, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// What decides over the copies of one race.
pub(crate) trait Rules<T, E> {
    /// How long the copies that run, `started` of them so far, have until another one is started; `None`: for ever.
    fn delay(&mut self, started: usize) -> Option<Duration>;
    /// The delay has passed: may another copy start? The last word before it does, so a budget may be charged here.
    /// After the first no, only failures start copies.
    fn may_hedge(&mut self) -> bool;
    /// A copy failed and no answer is good yet: may another one start at once? It may be charged here, too.
    fn may_replace(&mut self, error: &E) -> bool;
    /// An answer that is not good came: may another copy start at once for a better one? It may be charged here, too.
    fn may_improve(&mut self, _answer: &T) -> bool {
        false
    }
    /// Whether this answer ends the race. One that does not is kept for the case that none does.
    fn is_good(&self, answer: &T) -> bool;
}

/// How a race ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finish<T, E> {
    /// The first good answer; else the last that was not good; else the last error.
    pub result: Result<T, E>,
    /// Which copy the result is of; the first one is 0.
    pub copy: usize,
    /// How many copies were started.
    pub started: usize,
}

/// Run copies until one gives a good answer or all have ended. `start` begins the n-th copy, from 0, or finds that
/// there is nowhere to send it; it is not asked again then. `None` when not even the first could start.
pub(crate) async fn race<T, E, F: Future<Output = Result<T, E>>>(
    mut start: impl FnMut(usize) -> Option<F>,
    rules: &mut impl Rules<T, E>,
) -> Option<Finish<T, E>> {
    let mut copies = FuturesUnordered::new();
    let numbered = |copy: usize, future: F| async move { (copy, future.await) };
    copies.push(numbered(0, start(0)?));
    let mut started = 1;
    let (mut hedging, mut startable) = (true, true);
    let mut next = deadline(rules.delay(started));
    let mut kept: Option<(usize, Result<T, E>)> = None;
    loop {
        let wanted = tokio::select! {
            // An answer that is there makes another copy needless.
            biased;
            ended = copies.next() => match ended {
                Some((copy, Ok(answer))) if rules.is_good(&answer) => {
                    return Some(Finish { result: Ok(answer), copy, started });
                }
                Some((copy, Ok(answer))) => {
                    let wanted = startable && rules.may_improve(&answer);
                    kept = Some((copy, Ok(answer)));
                    wanted
                }
                Some((copy, Err(error))) => {
                    let wanted = startable && rules.may_replace(&error);
                    if !matches!(kept, Some((_, Ok(_)))) {
                        kept = Some((copy, Err(error)));
                    }
                    wanted
                }
                None => {
                    let (copy, result) = kept?;
                    return Some(Finish { result, copy, started });
                }
            },
            () = until(next), if hedging && startable => {
                hedging = rules.may_hedge();
                hedging
            }
        };
        if wanted {
            match start(started) {
                Some(copy) => {
                    copies.push(numbered(started, copy));
                    started += 1;
                    next = deadline(rules.delay(started));
                }
                None => startable = false,
            }
        }
    }
}

/// A delay beyond what the clock can count is none.
fn deadline(delay: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(delay?)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use tokio::time::sleep;

    use super::*;

    const DELAY: u64 = 50;

    struct Fixed {
        hedges: usize,
        replacements: usize,
        delay: Option<Duration>,
    }

    impl Rules<u16, &'static str> for Fixed {
        fn delay(&mut self, _: usize) -> Option<Duration> {
            self.delay
        }

        fn may_hedge(&mut self) -> bool {
            take(&mut self.hedges)
        }

        fn may_replace(&mut self, _: &&'static str) -> bool {
            take(&mut self.replacements)
        }

        fn is_good(&self, status: &u16) -> bool {
            *status < 500
        }
    }

    fn take(budget: &mut usize) -> bool {
        let left = *budget > 0;
        *budget = budget.saturating_sub(1);
        left
    }

    fn rules(hedges: usize, replacements: usize) -> Fixed {
        Fixed { hedges, replacements, delay: Some(Duration::from_millis(DELAY)) }
    }

    type Script = &'static [(u64, Result<u16, &'static str>)];

    /// Each copy answers after so many milliseconds; the time the race took comes with its end.
    async fn run(script: Script, mut rules: Fixed) -> (Option<Finish<u16, &'static str>>, u128) {
        let began = Instant::now();
        let start = |copy: usize| {
            let (after, result) = *script.get(copy)?;
            Some(async move {
                sleep(Duration::from_millis(after)).await;
                result
            })
        };
        (race(start, &mut rules).await, began.elapsed().as_millis())
    }

    fn finish(
        result: Result<u16, &'static str>,
        copy: usize,
        started: usize,
    ) -> Option<Finish<u16, &'static str>> {
        Some(Finish { result, copy, started })
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_answer_starts_one_copy() {
        assert_eq!(run(&[(10, Ok(200)), (0, Ok(201))], rules(9, 9)).await, (finish(Ok(200), 0, 1), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_copy_is_overtaken_by_the_next() {
        assert_eq!(run(&[(900, Ok(200)), (10, Ok(201))], rules(9, 9)).await, (finish(Ok(201), 1, 2), 60));
        let three: Script = &[(900, Ok(200)), (900, Ok(201)), (5, Ok(202))];
        assert_eq!(run(three, rules(9, 9)).await, (finish(Ok(202), 2, 3), 105));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_copy_may_still_win() {
        assert_eq!(run(&[(70, Ok(200)), (900, Ok(201))], rules(9, 9)).await, (finish(Ok(200), 0, 2), 70));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_at_the_very_moment_of_the_delay_needs_no_copy() {
        assert_eq!(run(&[(DELAY, Ok(200)), (0, Ok(201))], rules(9, 9)).await, (finish(Ok(200), 0, 1), 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_budget_or_no_delay_starts_no_copy() {
        let slow: Script = &[(900, Ok(200)), (0, Ok(201))];
        assert_eq!(run(slow, rules(0, 9)).await, (finish(Ok(200), 0, 1), 900));
        assert_eq!(run(slow, Fixed { delay: None, ..rules(9, 9) }).await, (finish(Ok(200), 0, 1), 900));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_replaced_at_once() {
        let script: Script = &[(10, Err("refused")), (10, Ok(201))];
        assert_eq!(run(script, rules(0, 1)).await, (finish(Ok(201), 1, 2), 20));
        assert_eq!(run(script, rules(9, 0)).await, (finish(Err("refused"), 0, 1), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replacement_starts_the_delay_anew() {
        let script: Script = &[(40, Err("refused")), (900, Ok(201)), (5, Ok(202))];
        assert_eq!(run(script, rules(9, 9)).await, (finish(Ok(202), 2, 3), 95));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_end_without_a_good_answer_a_bad_one_goes_before_an_error() {
        let script: Script = &[(60, Ok(503)), (40, Err("reset"))];
        assert_eq!(run(script, rules(9, 0)).await, (finish(Ok(503), 0, 2), 90));
        let script: Script = &[(60, Err("refused")), (40, Err("reset"))];
        assert_eq!(run(script, rules(9, 0)).await, (finish(Err("reset"), 1, 2), 90));
        let script: Script = &[(60, Ok(503)), (40, Ok(502))];
        assert_eq!(run(script, rules(9, 0)).await, (finish(Ok(502), 1, 2), 90));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_answer_waits_for_the_copies_under_way_only() {
        assert_eq!(run(&[(10, Ok(503)), (0, Ok(200))], rules(9, 9)).await, (finish(Ok(503), 0, 1), 10));
        assert_eq!(run(&[(60, Ok(503)), (30, Ok(200))], rules(9, 9)).await, (finish(Ok(200), 1, 2), 80));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_further_endpoint_the_copies_under_way_decide() {
        assert_eq!(run(&[(900, Ok(200))], rules(9, 9)).await, (finish(Ok(200), 0, 1), 900));
        assert_eq!(run(&[(10, Err("refused"))], rules(9, 9)).await, (finish(Err("refused"), 0, 1), 10));
        assert_eq!(run(&[], rules(9, 9)).await, (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn losers_are_dropped_before_the_answer_is_handed_out() {
        struct Running(Rc<Cell<usize>>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let running = Rc::new(Cell::new(0));
        let start = |copy: usize| {
            running.set(running.get() + 1);
            let guard = Running(running.clone());
            Some(async move {
                let _guard = guard;
                sleep(Duration::from_millis([900, 10][copy])).await;
                Ok(200)
            })
        };
        let ended = race(start, &mut rules(1, 0)).await;
        assert_eq!((ended, running.get()), (finish(Ok(200), 1, 2), 0));
    }
}
