//! Admission and the line of those who wait.

use std::{future::Future, pin::Pin, task::Poll};

use futures_util::poll;

use super::*;

fn circuit(requests: u32, pending: u32) -> Arc<Circuit> {
    Circuit::new(CircuitLimits { connections: 1, pending, requests })
}

type Turn<'a> = Pin<Box<dyn Future<Output = Result<Admitted, Full>> + 'a>>;

fn turn(circuit: &Arc<Circuit>) -> Turn<'_> {
    Box::pin(circuit.request())
}

fn admitted(polled: Poll<Result<Admitted, Full>>) -> Admitted {
    match polled {
        Poll::Ready(Ok(admitted)) => admitted,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn beyond_the_limit_requests_wait_and_beyond_the_line_they_are_refused() {
    let circuit = circuit(1, 1);
    let held = circuit.request().await.unwrap();
    let mut waits = turn(&circuit);
    assert!(poll!(&mut waits).is_pending());
    assert_eq!((circuit.pending(), circuit.request().await.unwrap_err()), (1, Full::Requests));
    drop(held);
    let _second = admitted(poll!(&mut waits));
    assert_eq!(circuit.pending(), 0);
}

#[tokio::test]
async fn requests_in_line_are_admitted_in_their_order() {
    let circuit = circuit(1, 9);
    let held = circuit.request().await.unwrap();
    let (mut first, mut second) = (turn(&circuit), turn(&circuit));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    drop(held);
    let mut late = turn(&circuit);
    assert!(poll!(&mut late).is_pending(), "the place is the first one's");
    assert!(poll!(&mut second).is_pending());
    drop(admitted(poll!(&mut first)));
    drop(admitted(poll!(&mut second)));
    drop(admitted(poll!(&mut late)));
}

#[tokio::test]
async fn one_that_gives_up_leaves_no_trace() {
    let circuit = circuit(1, 2);
    let held = circuit.request().await.unwrap();
    let (mut gone, mut stays) = (turn(&circuit), turn(&circuit));
    assert!(poll!(&mut gone).is_pending() && poll!(&mut stays).is_pending());
    drop(held);
    drop(gone);
    drop(admitted(poll!(&mut stays)));
    assert_eq!(circuit.pending(), 0);
    let _free = circuit.request().await.unwrap();
}

#[tokio::test]
async fn connections_have_a_limit_of_their_own() {
    let circuit = circuit(5, 1);
    let held = circuit.connection().await.unwrap();
    assert_eq!(circuit.connections_wanted(), 0);
    let mut waits: Turn<'_> = Box::pin(circuit.connection());
    assert!(poll!(&mut waits).is_pending());
    assert_eq!((circuit.connections_wanted(), circuit.idle()), (1, 0));
    let idle = held.idle();
    assert_eq!(circuit.idle(), 1);
    drop(idle);
    assert_eq!(circuit.connection().await.unwrap_err(), Full::Connections);
    let _requests = circuit.request().await.unwrap();
    drop(held);
    assert!(poll!(&mut waits).is_ready());
    assert_eq!((circuit.connections_wanted(), circuit.idle()), (0, 0));
}

#[tokio::test]
async fn limits_change_while_requests_are_in_flight() {
    let circuit = circuit(3, 0);
    let limit = |requests| circuit.limit(CircuitLimits { connections: 1, pending: 0, requests });
    let mut held = vec![circuit.request().await.unwrap(), circuit.request().await.unwrap()];
    limit(1);
    assert!(circuit.request().await.is_err());
    held.pop();
    assert!(circuit.request().await.is_err(), "one is still in flight");
    held.pop();
    held.push(circuit.request().await.unwrap());
    assert!(circuit.request().await.is_err());
    limit(2);
    held.push(circuit.request().await.unwrap());
    assert!(circuit.request().await.is_err());
    limit(1);
    limit(2);
    assert!(circuit.request().await.is_err(), "lowered and raised is as before");
    held.clear();
    let _all = (circuit.request().await.unwrap(), circuit.request().await.unwrap());
    assert!(circuit.request().await.is_err());
}
