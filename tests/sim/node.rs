//! A node: what it is, and how it runs for a window of time.

use std::sync::{Arc, Mutex};

use store::{disk::LastGood, engine::embedded::Embedded, handle::Handle};
use tokio::runtime::Runtime;
use waypost::control::{self, ControlHandle, Refusal};

use crate::{
    net::{Body, Id, Message, Request, Response, Seat, lock},
    oracle::Inputs,
    rim::{Evidence, POLL, serve},
    sites::carry::Door,
};

pub type Slot<T> = Arc<Mutex<Option<T>>>;

pub fn slot<T>() -> Slot<T> {
    Arc::new(Mutex::new(None))
}

/// What a node is.
pub enum Role {
    Engine { engine: Slot<Arc<Embedded>> },
    Control { handle: Slot<ControlHandle>, door: Slot<Door> },
    Prober { evidence: Arc<Mutex<Evidence>> },
    Reader { handle: Slot<Handle>, inputs: Arc<Mutex<Inputs>> },
}

/// A node: what it is, and what outlives it.
pub struct Node {
    pub id: Id,
    pub seat: Seat,
    pub role: Role,
    /// None while it is dead. An engine that keeps its disk stays, and no node reaches it.
    pub runtime: Option<Runtime>,
    pub life: u32,
    pub memory: LastGood,
    /// The state of its source of chance.
    pub random: u64,
}

impl Node {
    /// Runs until a true time, with what arrived.
    pub fn run(&mut self, messages: Vec<Message>, until: u64) {
        let Some(runtime) = self.runtime.take() else { return };
        fastrand::seed(self.random);
        let target = self.seat.local(until);
        runtime.block_on(async {
            for message in messages {
                self.take(message);
                // Once round the queue for what was woken, and once for what that woke.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            tokio::time::sleep_until(target).await;
        });
        self.random = fastrand::get_seed();
        self.runtime = Some(runtime);
    }

    /// Does something at an engine, between two windows.
    pub fn on_engine<T>(&mut self, work: impl AsyncFnOnce(&Embedded) -> T) -> T {
        let Role::Engine { engine } = &self.role else { panic!("{:?} is no engine", self.id) };
        let engine = lock(engine).clone().unwrap();
        fastrand::seed(self.random);
        let done = self.runtime.as_ref().unwrap().block_on(work(&engine));
        self.random = fastrand::get_seed();
        done
    }

    fn take(&self, message: Message) {
        let Message { from, number, body, .. } = message;
        match body {
            Body::Response(response) => lock(&self.seat.net).answer(self.id, number, response),
            Body::Request(request) => self.serve(from, number, request),
        }
    }

    fn serve(&self, from: Id, number: u64, request: Request) {
        let seat = self.seat.clone();
        let respond = move |response| {
            let at = seat.true_now();
            lock(&seat.net).respond(seat.id, from, number, response, at);
        };
        match (&self.role, request) {
            (Role::Engine { engine }, Request::Engine(call)) => {
                let Some(engine) = lock(engine).clone() else { return };
                tokio::spawn(async move { respond(Response::Engine(serve(engine.as_ref(), call).await)) });
            }
            (Role::Control { door, .. }, Request::Site(call)) => {
                let Some(door) = lock(door).clone() else { return respond(Response::Reset) };
                tokio::spawn(async move { respond(Response::Site(door.answer(call).await)) });
            }
            (Role::Control { handle, .. }, request) => {
                let Some(control) = lock(handle).clone() else { return respond(Response::Reset) };
                tokio::spawn(async move { respond(at_control(control, request).await) });
            }
            _ => respond(Response::Reset),
        }
    }
}

/// The admin API's part.
async fn at_control(control: ControlHandle, request: Request) -> Response {
    let failed = |refused: control::Refused| match refused.kind {
        Refusal::Unavailable => prober::Failed::Unanswered(refused.text),
        _ => prober::Failed::Refused(refused.text),
    };
    match request {
        Request::Report(batch) => Response::Report(control.observe(batch).await.map_err(failed)),
        Request::Work { vantage, index } => {
            Response::Work(control.work(vantage.as_str(), index, POLL).await.map_err(failed))
        }
        Request::Engine(_) | Request::Site(_) => Response::Reset,
    }
}
