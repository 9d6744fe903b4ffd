//! The home, where documents are committed: changes are carried out here if this is the home and passed on to it otherwise;
//! which site is the home is ordered here.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};

use super::{Admin, Caller, JsonBody, Problem, describe::List};
use crate::{
    api::{
        self, Applied, ChangeAtHome, HomeAnswer, HomeChange, JoinOrder, Joined, LostConfiguration, MadeToken,
        Promoted, Promotion, exchange::Version,
    },
    auth::Right,
    control::{ChangeError, Lockout, Requester},
};

/// The path of a change at the home.
const PATH: &str = "/v1/sites/change";
/// The longest that the home may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

impl Admin {
    /// Carries out a change here, or at the home if documents are committed there.
    pub(super) async fn change(&self, caller: &Caller, change: HomeChange) -> Result<HomeAnswer, Problem> {
        let requester = caller.requester();
        let home = match self.carry_out(requester, &change).await {
            Ok(answer) => return Ok(answer),
            Err(ChangeError::AwayFromHome { home, text }) => {
                let peer = home.name().and_then(|home| self.peers.of(&home));
                peer.ok_or_else(|| Problem::new(StatusCode::CONFLICT, text))?
            }
            Err(error) => return Err(caller.problem(error)),
        };
        let passed_on = ChangeAtHome {
            v: Version,
            by: requester.name.to_owned(),
            authority: requester.authority,
            may_change_tokens: requester.may_change_tokens,
            change,
        };
        let answer: HomeAnswer = home.call(PATH, &passed_on, DEADLINE, MAX_ANSWER).await.map_err(|error| {
            let site = home.site().map(ToString::to_string).unwrap_or_default();
            let text = format!(
                "documents are committed at the home, the site {site}, which cannot be asked: {error}; overrides and switches \
                 are taken here, and `waypost promote` makes this site the home if {site} does not come back"
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
        match answer {
            HomeAnswer::Refused { status, problem } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                Err(Problem { status, error: problem.error, input_errors: problem.mistakes })
            }
            answer => {
                // What was changed there is here when the command returns, unless the copy takes long.
                let generation = match &answer {
                    HomeAnswer::Applied(Applied { generation, .. })
                    | HomeAnswer::Token(MadeToken { generation, .. }) => Some(*generation),
                    HomeAnswer::Bootstrap(_) | HomeAnswer::Refused { .. } => None,
                };
                if let Some(generation) = generation {
                    self.control.wait_for_generation(generation).await;
                }
                Ok(answer)
            }
        }
    }

    /// As [`Admin::change`], of a change that is answered with what was applied.
    pub(super) async fn apply_change(&self, caller: &Caller, change: HomeChange) -> Result<Applied, Problem> {
        match self.change(caller, change).await? {
            HomeAnswer::Applied(applied) => Ok(applied),
            _ => {
                Err(Problem::new(StatusCode::BAD_GATEWAY, "the home answered something else than was asked"))
            }
        }
    }

    /// Carries out a change that another site passed on.
    pub(super) async fn change_for(&self, site: &str, asked: ChangeAtHome) -> HomeAnswer {
        let name = format!("{} at {site}", asked.by);
        let requester =
            Requester { name: &name, authority: asked.authority, may_change_tokens: asked.may_change_tokens };
        match self.carry_out(requester, &asked.change).await {
            Ok(answer) => answer,
            Err(error) => {
                let Problem { status, error, input_errors } = Problem::of_change(error);
                let problem = api::Problem { error, mistakes: input_errors };
                HomeAnswer::Refused { status: status.as_u16(), problem }
            }
        }
    }

    async fn carry_out(&self, by: Requester<'_>, change: &HomeChange) -> Result<HomeAnswer, ChangeError> {
        let control = &self.control;
        Ok(match change {
            HomeChange::Apply(wanted) => HomeAnswer::Applied(control.apply(by, wanted).await?),
            HomeChange::Delete { id, force } => {
                HomeAnswer::Applied(control.delete(by, id.clone(), Lockout::forced(*force)).await?)
            }
            HomeChange::Bootstrap(order) => HomeAnswer::Bootstrap(control.order_bootstrap(by, order).await?),
            HomeChange::Token(wanted) => HomeAnswer::Token(control.create_token(by, wanted.clone()).await?),
            HomeChange::Restore { backup, force } => {
                HomeAnswer::Applied(control.restore(by, backup.clone(), Lockout::forced(*force)).await?)
            }
        })
    }
}

/// Makes this site the home.
pub(super) async fn promote(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(wanted): JsonBody<Promotion>,
) -> Result<Json<Promoted>, Problem> {
    caller.needs(Right::Restore)?;
    let promoted = admin.control.promote(caller.requester(), &admin.peers, wanted).await;
    promoted.map(Json).map_err(|error| caller.problem(error))
}

/// Joins other sites although this one has documents of its own.
pub(super) async fn join(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(order): JsonBody<JoinOrder>,
) -> Result<Json<Joined>, Problem> {
    caller.needs(Right::Restore)?;
    let joined = admin.control.join(&order).await;
    joined.map(Json).map_err(|error| caller.problem(error))
}

/// The configurations that were replaced by one which does not contain them.
pub(super) async fn lost(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<List<LostConfiguration>, Problem> {
    caller.needs(Right::Restore)?;
    Ok(List(admin.control.lost_configurations().await))
}
