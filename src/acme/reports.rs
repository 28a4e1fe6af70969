//! How all names stand, for operators and for the metrics.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use super::{
    desk::Desk,
    holding::{Failed, Report, State},
    keeper::Keeper,
};
use crate::policy::issuance::Next;

impl Keeper {
    /// How all stand.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let (settings, now) = (self.settings(), SystemTime::now());
        let inner = self.lock();
        let each = inner.holdings.iter().flat_map(|((account, _), holding)| {
            holding.names.iter().map(move |name| (account, name, holding))
        });
        let reports = each.filter_map(|(account, name, holding)| {
            let of = settings.accounts.get(account)?;
            let due = holding.held.as_ref().map(|held| held.due(of.renewal));
            let again_at = match holding.attempts.next(of.cas.len(), now) {
                Next::Wait(until) if holding.is_due(of.renewal, now) => Some(until),
                _ => None,
            };
            Some(Report {
                account: account.clone(),
                name: name.clone(),
                state: holding.state(of.renewal, now),
                issuer: holding.held.as_ref().map(|held| host_of(&held.directory)),
                until: holding.held.as_ref().map(|held| held.life.until),
                renewed_at: due,
                failed: holding.failed.as_ref().map(|Failed { at, ca, trouble }| {
                    (*at, ca.clone(), trouble.reason.word(), trouble.to_string())
                }),
                again_at,
            })
        });
        reports.collect()
    }

    pub(super) fn count(&self, desk: &Desk) {
        self.acme().accounts(desk.accounts.keys());
        self.count_states();
    }

    pub(super) fn count_states(&self) {
        let reports = self.reports();
        let settings = self.settings();
        let all = settings
            .accounts
            .keys()
            .flat_map(|account| State::ALL.map(|state| ((account.clone(), state), 0)));
        let mut counts: BTreeMap<(Arc<str>, State), usize> = all.collect();
        for report in &reports {
            *counts.entry((report.account.clone(), report.state)).or_default() += 1;
        }
        for ((account, state), count) in counts {
            self.acme().certificates(&account, state.word(), count);
        }
    }
}

/// For people.
fn host_of(directory: &str) -> String {
    let uri = directory.parse::<http::Uri>().ok();
    uri.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}
