//! Takes what another site told: orders first, because they are small and urgent, then the configuration.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use store::{
    commit::{
        self, AuditEntry, CommitError, Difference, DifferenceKind, Stored,
        copy::{CopyError, HeadCopy, ShardCopy, ShardRef, copy_differences, plan_copy},
    },
    model::{Generation, Name},
    orders::{MAX_ORDERS, MAX_RECORD, OrderRecord},
};

use super::{
    MAX_SHARDS, above, lost,
    not_taken::{NotTaken, failed},
};
use crate::{
    api::{ExchangeAnswer, ShardsAnswer, ShardsQuery, exchange::Version},
    control::{
        Shared,
        orders::{self, NotWritten},
    },
    sites::Peer,
};

/// The path of the question for shards.
const PATH: &str = "/v1/sites/shards";
/// The longest that a site may take to begin an answer with shards.
const BEGINS_WITHIN: Duration = Duration::from_secs(3);
/// The slowest link, in octets per second. A question that is lost in a cut holds up the copy until its deadline, so that of a
/// few shards is short.
const SLOWEST: usize = 1024 * 1024;
/// The longest that an answer may take once it has begun.
const LONGEST: Duration = Duration::from_secs(60);
/// The most octets of an answer: text in JSON may be longer than its content, by escapes.
const MAX_ANSWER: usize = 4 * MAX_SHARDS;
/// How many differences are listed.
const MAX_LISTED: usize = 20;
/// Writes of others that a write gives way to before it fails.
const TRIES: usize = 5;

/// Takes an answer. Orders and configuration are independent of one another: if one is refused the other is taken.
pub(super) async fn take(
    shared: &Arc<Shared>,
    peer: &Peer,
    site: &Name,
    answer: ExchangeAnswer,
) -> Result<(), NotTaken> {
    let orders = match answer.orders {
        Some(records) => take_orders(shared, site, records).await,
        None => Ok(()),
    };
    let configuration = match answer.head {
        Some(head) => take_configuration(shared, peer, site, head).await,
        None => Ok(()),
    };
    orders.and(configuration)
}

/// Checks all records before any is taken.
fn check(records: &[OrderRecord]) -> Result<(), NotTaken> {
    if records.len() > MAX_ORDERS {
        return Err(NotTaken::Refused(format!("{} orders; expected at most {MAX_ORDERS}", records.len())));
    }
    for record in records {
        record.check().map_err(|error| NotTaken::Refused(error.to_string()))?;
        let size = record.to_bytes().len();
        if size > MAX_RECORD {
            let text =
                format!("the record of {} has {size} octets; expected at most {MAX_RECORD}", record.target);
            return Err(NotTaken::Refused(text));
        }
    }
    Ok(())
}

async fn take_orders(shared: &Shared, site: &Name, records: Vec<OrderRecord>) -> Result<(), NotTaken> {
    check(&records)?;
    let who = format!("site {site}");
    match orders::add(shared, &who, "orders of other sites", &records).await {
        Ok(taken) => {
            shared.metrics.orders_taken.add(taken as u64);
            Ok(())
        }
        Err(error @ NotWritten::TooMany(_)) => Err(NotTaken::Refused(error.to_string())),
        Err(error) => Err(failed(error)),
    }
}

async fn take_configuration(
    shared: &Shared,
    peer: &Peer,
    site: &Name,
    mut head: HeadCopy,
) -> Result<(), NotTaken> {
    // One copy at a time: several sites usually have the same news.
    let mut known = shared.copied.lock().await;
    for _ in 0..TRIES {
        let engine = shared.engine.as_ref();
        let current = commit::read(engine, known.as_ref()).await.map_err(failed)?;
        *known = Some(current.clone());
        let takes_home = shared.take_home.load(Ordering::Relaxed);
        match relation(head.generation(), current.generation()) {
            // Both have a home: one lost its engine and began anew, perhaps with the same numbers.
            Relation::Nothing if !head.generation().site.is_empty() && head.is_apart_from(&current) => {
                return Err(two_homes(&head, &current));
            }
            Relation::Nothing => return Ok(()),
            Relation::Apart => return Err(has_not_joined(head.generation())),
            Relation::Below => {
                let shards = fetch(peer, head.missing(&current)).await?;
                let differences = copy_differences(&current, head.clone(), shards).map_err(not_copied)?;
                refuse_foreign(&head, &current, &differences, takes_home)?;
                head = above::ask(peer, current.generation()).await?;
                continue;
            }
            Relation::News => {}
        }
        let shards = fetch(peer, head.missing(&current)).await?;
        let plan = plan_copy(&current, head.clone(), shards).map_err(not_copied)?;
        refuse_foreign(&head, &current, plan.differences(), takes_home)?;
        // Of equal documents nothing is lost, wherever they were committed.
        if !plan.differences().is_empty() {
            keep_what_is_lost(shared, &head, &current).await?;
        }
        let entry = AuditEntry {
            at: shared.handle.now(),
            who: format!("site {site}"),
            what: format!(
                "copy of generation {}: {} documents changed",
                head.generation(),
                plan.differences().len()
            ),
            generation: None,
        };
        match commit::commit(engine, plan, entry).await {
            Ok(generation) => {
                shared.metrics.configurations_copied.increment();
                tracing::info!(%site, %generation, replaced = %current.generation(), "configuration copied");
                return Ok(());
            }
            Err(CommitError::Conflict) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed("the configuration is changed by others all the time"))
}

/// What a configuration that is offered is to the present one.
#[derive(Debug, PartialEq, Eq)]
enum Relation {
    /// There is nothing to be taken.
    Nothing,
    /// It is later.
    News,
    /// It is that of a home, and this site, which joins, has a later one: its epoch is higher, because it was restored.
    Below,
    /// It is that of a site which has not joined. Such a site takes ours, and never the other way round, however high its
    /// epoch is.
    Apart,
}

fn relation(offered: Generation, present: Generation) -> Relation {
    match (offered.site.is_empty(), present.site.is_empty()) {
        (false, true) if offered < present => Relation::Below,
        (true, false) if offered > present => Relation::Apart,
        _ if offered > present => Relation::News,
        _ => Relation::Nothing,
    }
}

fn has_not_joined(offered: Generation) -> NotTaken {
    NotTaken::Refused(format!(
        "generation {offered} is that of a site which is connected to no other; that site has to join (`[control] join`)"
    ))
}

fn not_copied(error: CopyError) -> NotTaken {
    match error {
        CopyError::Shard { .. } => failed(error),
        other => NotTaken::Refused(other.to_string()),
    }
}

/// Refuses a configuration that has nothing to do with the present one, unless a person has said that it may be replaced.
fn refuse_foreign(
    head: &HeadCopy,
    current: &Stored,
    differences: &[Difference],
    takes_home: bool,
) -> Result<(), NotTaken> {
    let (present, offered) = (current.generation(), head.generation());
    if takes_home || present == Generation::default() {
        return Ok(());
    }
    if present.site.is_empty() {
        if differences.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> = differences.iter().take(MAX_LISTED).map(describe_difference).collect();
        let more = match differences.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Err(NotTaken::Refused(format!(
            "this site has documents of its own, which differ from those of generation {offered}: {}{more}; make them equal, or \
             replace them by those of the home with `waypost join --take-home`",
            listed.join("; ")
        )));
    }
    if !head.is_related_to(current) {
        return Err(two_homes(head, current));
    }
    Ok(())
}

fn two_homes(head: &HeadCopy, current: &Stored) -> NotTaken {
    let (offered, present) = (head.generation(), current.generation());
    NotTaken::Refused(format!(
        "two homes: generation {offered} there and {present} here come from different configurations; one of the sites has \
         to join the other (`[control] join`), with an empty engine"
    ))
}

fn describe_difference(difference: &Difference) -> String {
    let id = &difference.id;
    match &difference.kind {
        DifferenceKind::Added => format!("{id} is missing here"),
        DifferenceKind::Removed => format!("{id} is only here"),
        DifferenceKind::Changed { fields } => format!("{id} differs ({})", fields.join(", ")),
    }
}

/// Fetches shards, as many at once as an answer may hold.
async fn fetch(peer: &Peer, wanted: Vec<ShardRef>) -> Result<Vec<ShardCopy>, NotTaken> {
    let mut shards = Vec::new();
    let mut group: Vec<ShardRef> = Vec::new();
    let mut size = 0;
    let mut groups = Vec::new();
    for shard in wanted {
        if !group.is_empty() && size + shard.max_size() > MAX_SHARDS {
            groups.push(std::mem::take(&mut group));
            size = 0;
        }
        size += shard.max_size();
        group.push(shard);
    }
    groups.extend(Some(group).filter(|group| !group.is_empty()));
    for wanted in groups {
        let deadline = deadline(wanted.iter().map(ShardRef::max_size).fold(0, usize::saturating_add));
        let query = ShardsQuery { v: Version, wanted };
        let answer: ShardsAnswer = peer.call(PATH, &query, deadline, MAX_ANSWER).await.map_err(failed)?;
        shards.extend(answer.shards);
    }
    Ok(shards)
}

/// How long an answer with at most so many octets may take.
fn deadline(size: usize) -> Duration {
    let seconds = u64::try_from(size.div_ceil(SLOWEST)).unwrap_or(u64::MAX);
    BEGINS_WITHIN + Duration::from_secs(seconds).min(LONGEST)
}

/// Keeps the present configuration as a file if the next one does not contain it, as that of a home that was replaced while
/// it was away.
async fn keep_what_is_lost(shared: &Shared, head: &HeadCopy, current: &Stored) -> Result<(), NotTaken> {
    let (Some(folder), false) = (&shared.config.lost, head.contains(current)) else {
        return Ok(());
    };
    let file = lost::keep(folder, current, shared.handle.now()).await.map_err(failed)?;
    tracing::error!(
        generation = %current.generation(), by = %head.generation(), file = %file.display(),
        "this site's configuration is replaced by one that does not contain it; it is kept as a file"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_shards_hold_up_a_copy_for_a_few_seconds_only() {
        let seconds = |size| deadline(size).as_secs();
        assert_eq!([seconds(256 * 1024), seconds(MAX_SHARDS), seconds(usize::MAX)], [4, 11, 63]);
    }

    #[test]
    fn a_site_that_has_not_joined_takes_what_is_of_the_home_and_gives_nothing() {
        let of = |offered: &str, present: &str| relation(offered.parse().unwrap(), present.parse().unwrap());
        assert_eq!(of("1.7@bj", "3.2"), Relation::Below);
        assert_eq!(of("1.7@bj", "1.9"), Relation::News, "of one epoch, that of a home is the later one");
        assert_eq!(of("3.2", "1.7@bj"), Relation::Apart);
        assert_eq!(of("1.9", "1.7@bj"), Relation::Nothing);
        assert_eq!(of("3.2@sh", "1.7@bj"), Relation::News, "another home");
        assert_eq!(of("1.7@bj", "3.2@sh"), Relation::Nothing);
        assert_eq!((of("3.2", "1.7"), of("1.7", "3.2")), (Relation::News, Relation::Nothing), "no homes");
    }
}
