//! How an attempt gets its connection: an idle one, a new one, or one's turn where a service has limits. And waiting before
//! the next attempt.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    dial::{DialError, of_client},
    exchange::{Exchange, upload_patience},
    failure::{Failure, Late},
    queue::{self, Bounds, NoTurn},
    upstream::{Dial, InUse, Turn},
};
use crate::{
    balance::{attempts::Attempts, stands_for_site},
    happy_eyeballs::DialAddresses,
    service::{
        circuit::{Circuit, Full},
        connections::Connections,
    },
};

impl Exchange<'_> {
    /// How long a connection may take to be made.
    pub(super) fn connect_time(&self) -> Duration {
        self.times.connect.min(self.left())
    }

    /// Gets a connection to the instance: an idle one, or unless there may be no more, a new one.
    pub(super) async fn reach(
        &mut self,
        in_use: &mut InUse,
        addresses: &DialAddresses,
        fresh: bool,
    ) -> Result<(), Failure> {
        let plan = self.plan;
        let Some(service) = plan.table.backend(plan.backend) else { return Err(Failure::Excluded) };
        let to_gateway = in_use.instance().is_some_and(|it| stands_for_site(&it.endpoint));
        let terms = if to_gateway { &self.worker.shared.to_gateways } else { &service.connections };
        if !fresh && in_use.take_idle(addresses, terms, !plan.asked.method.is_idempotent()) {
            return Ok(());
        }
        let place = match &service.circuit {
            None => None,
            Some(circuit) => match self.turn(in_use, terms, circuit).await? {
                Turn::Place(place) => Some(place),
                Turn::Connection(mut connection) if fresh => connection.place.take(),
                Turn::Connection(connection) => in_use.take_over(*connection),
            },
        };
        if in_use.connection().is_none() {
            let client = of_client(self.client.peer, self.client.local);
            let within = self.connect_time();
            let from = Instant::now();
            let dial = Dial { addresses, terms, client, place, within };
            // Boxed, because few requests need one, and all would be larger.
            Box::pin(in_use.connect(dial)).await.map_err(|error| self.undialled(error))?;
            self.connected = Some(from.elapsed());
            if let Some(instance) = in_use.instance() {
                Attempts::connected(instance, self.worker.shared.handle.now());
            }
        }
        // All this takes time. Meanwhile a drain may have excluded the instance, or this process may have been frozen.
        if self.is_excluded(in_use) || self.worker.lease_lapsed() {
            return Err(Failure::Excluded);
        }
        Ok(())
    }

    /// Why there is no connection. One that was given up because the request's own time was over has not failed.
    pub(super) fn undialled(&self, error: DialError) -> Failure {
        match error {
            DialError::Connect(error) if error.kind() == ErrorKind::TimedOut && self.left().is_zero() => {
                Failure::Late(Late::Total)
            }
            DialError::Connect(error) => Failure::Connect(error),
            DialError::Insecure(error) => Failure::Insecure(error),
            DialError::Unprepared(why) => Failure::Unprepared(why),
        }
    }

    pub(super) fn is_excluded(&self, in_use: &InUse) -> bool {
        in_use.instance().is_some_and(|it| self.worker.upstream.is_excluded(it))
    }

    /// Waits until the service may have one more request.
    ///
    /// # Errors
    /// Why it does not come to that.
    pub(crate) async fn admit(&mut self) -> Result<(), Failure> {
        let plan = self.plan;
        let Some(circuit) = plan.table.backend(plan.backend).and_then(|it| it.circuit.as_ref()) else {
            return Ok(());
        };
        let around = (&*self.worker.buffers, self.timer, self.patience_in_line());
        let stops = || self.worker.cuts_all();
        let waiting = queue::wait(circuit.request(), self.client, around, || {}, stops);
        let admitted = Box::pin(waiting).await;
        self.admitted = Some(admitted.map_err(|why| no_turn(why, circuit))?);
        self.has_waited();
        Ok(())
    }

    /// Waits until the service may have one more connection.
    pub(super) async fn turn(
        &mut self,
        in_use: &InUse,
        terms: &Connections,
        circuit: &Arc<Circuit>,
    ) -> Result<Turn, Failure> {
        let worker = self.worker;
        let around = (&*worker.buffers, self.timer, self.patience_in_line());
        let excluded = || in_use.instance().is_some_and(|it| worker.upstream.is_excluded(it));
        let turn = in_use.turn(terms, circuit);
        let waiting = queue::wait(
            turn,
            self.client,
            around,
            || in_use.make_room(circuit),
            || in_use.is_cut() || excluded(),
        );
        if let Some(race) = &self.race {
            race.in_line.set(true);
        }
        let turn = Box::pin(waiting).await;
        if let Some(race) = &self.race {
            race.in_line.set(false);
        }
        self.has_waited();
        turn.map_err(|why| no_turn(why, circuit))
    }

    /// Waits before the next attempt, for as long as the client is there.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) async fn pause(&mut self, pause: Duration) -> Result<(), Failure> {
        let bounds = Bounds { turn: pause, ..self.patience_in_line() };
        let around = (&*self.worker.buffers, self.timer, bounds);
        let nothing = std::future::pending::<Result<(), Full>>();
        let stops = || self.worker.cuts_all();
        let paused = Box::pin(queue::wait(nothing, self.client, around, || {}, stops)).await;
        self.has_waited();
        match paused {
            Err(NoTurn::ClientGone) => Err(Failure::ClientGone),
            _ => Ok(()),
        }
    }

    pub(super) fn patience_in_line(&self) -> Bounds {
        let limits = self.worker.limits();
        Bounds { turn: limits.response_timeout.min(self.left()), ended: limits.client_fin_timeout }
    }

    /// The time that it waited in line counts against neither client nor instance.
    pub(super) fn has_waited(&mut self) {
        let now = Instant::now();
        self.patience = upload_patience(self.worker.limits(), now);
        self.held = self.held.filter(|_| self.client.input.is_none()).map(|_| now);
        if self.client.ended {
            self.ended.get_or_insert(now);
        }
    }
}

fn no_turn(why: NoTurn, circuit: &Circuit) -> Failure {
    match why {
        NoTurn::Full if circuit.has_no_line() => Failure::CircuitOpen,
        NoTurn::Full => Failure::QueueFull,
        NoTurn::Late => Failure::QueueLate,
        NoTurn::ClientGone => Failure::ClientGone,
        NoTurn::Moot => Failure::Excluded,
    }
}
