//! When a site that was down is readmitted: after the hold-down, then the domain's own condition, then its gate.

use super::{Query, moment};
use crate::{
    board::{Board, Reading},
    health::State,
    model::{Moment, OverrideState, RecoveryMode},
    snapshot::SteeredSite,
};

/// When a recovered site is readmitted, as far as known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Not before a release, a window or the gate.
    Never,
    /// From this moment on; its ramp begins then.
    At(Moment),
}

pub(super) fn admission(query: Query<'_>, site: &SteeredSite, health: Reading) -> Admission {
    let Query { domain, board, .. } = query;
    let recovery = &domain.domain.recovery;
    let settled = health.since.after(recovery.hold_down.0);
    let allowed = match &recovery.mode {
        RecoveryMode::Automatic => Some(settled),
        RecoveryMode::Manual => released(site, health.since, settled),
        RecoveryMode::Window { .. } => {
            let window = domain.steering.as_ref().and_then(|it| it.window.as_ref());
            window.map_or(Some(settled), |window| window.next_open(settled))
        }
    };
    match (allowed, gate(site, board)) {
        (Some(at), Gate::None) => Admission::At(at),
        (Some(at), Gate::OpenSince(since)) => Admission::At(at.max(since)),
        (None, _) | (_, Gate::Shut) => Admission::Never,
    }
}

/// When the first release since the site came up readmits it. The site stays when the release ends after that. A
/// release that ends before has no effect.
fn released(site: &SteeredSite, up_since: Moment, settled: Moment) -> Option<Moment> {
    let releases = site.overrides.iter().filter(|it| it.state == OverrideState::Release);
    let lets_back = releases.filter_map(|release| {
        let since = release.since.map(moment).filter(|at| *at >= up_since)?;
        let at = since.max(settled);
        release.expires.is_none_or(|expires| moment(expires) > at).then_some(at)
    });
    lets_back.min()
}

enum Gate {
    None,
    Shut,
    OpenSince(Moment),
}

/// Whether a site is ready. One of its addresses is enough, as for its health.
fn gate(site: &SteeredSite, board: &Board) -> Gate {
    let mut gate = Gate::None;
    for slot in site.addresses.iter().filter_map(|it| it.gate) {
        let reading = board.read(slot);
        gate = match (gate, reading.state) {
            (Gate::OpenSince(since), State::Up) => Gate::OpenSince(since.min(reading.since)),
            (_, State::Up) => Gate::OpenSince(reading.since),
            (Gate::OpenSince(since), _) => Gate::OpenSince(since),
            (Gate::None | Gate::Shut, _) => Gate::Shut,
        };
    }
    gate
}
