use http::StatusCode;

use super::{
    journal::Journal,
    restart_tests::{core, endpoint, pod},
    *,
};
use crate::{
    digest::Digest,
    pod::ResourceVersion,
    sink::Outcome,
    source::{Scope, What},
    store::{Command, Fault, Known, Mark, Memory, Size, Store},
    verdict::End,
};

/// Otherwise a crash before the list would have it miss every pod that does not change.
#[test]
fn an_endpoint_counts_as_introduced_when_the_list_has_told_of_every_pod() {
    let known =
        |number| Known { id: pod(number, 5).id, version: ResourceVersion(5), scope: Scope(0), annotation: None };
    let (old, new) = (endpoint(0).digest(), endpoint(1).digest());
    let mark = Mark { selection: Digest::of(""), term: None, told: Some(vec![ResourceVersion(5)]), global: vec![old] };
    let memory = Memory { mark, known: vec![known(1), known(2)], due: vec![] };
    let (mut core, _told) = core(None, false, 2, 1);
    let (store, commands) = Store::by_hand();
    core.take_up(Directory { store, selection: Digest::of(""), term: None }, Ok(Some(memory)));
    let keep = |core: &mut Core| {
        core.keep();
        let Ok(Command::Keep(changes, reply)) = commands.try_recv() else { panic!("nothing is written") };
        reply.send(Ok(Size::default())).unwrap();
        (
            changes.mark.global,
            changes.due.into_iter().map(|(pod, to, _)| (pod.uid().to_owned(), to)).collect::<Vec<_>>(),
        )
    };
    assert_eq!(keep(&mut core), (vec![old], vec![]));
    for what in [What::ListBegan, What::Listed(pod(1, 5))] {
        assert!(core.observe(PodEvent { scope: Scope(0), what }).is_continue());
    }
    assert_eq!(keep(&mut core), (vec![old], vec![("1".to_owned(), new)]));
    // The other one is gone, which the watch tells.
    for what in [What::ListEnded(ResourceVersion(9)), What::Watching(ResourceVersion(9))] {
        assert!(core.observe(PodEvent { scope: Scope(0), what }).is_continue());
    }
    assert_eq!(keep(&mut core).0, [old, new]);
}

/// Each of these pods is gone soon after it came; that it is gone would have to be written of each.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_takes_no_more_memory_than_what_there_is() {
    let (mut core, _told) = core(None, false, 2, 1);
    let (store, commands) = Store::by_hand();
    core.take_up(Directory { store, selection: Digest::of(""), term: None }, Ok(None));
    let keep = |core: &mut Core| {
        core.keep();
        let Ok(Command::Keep(changes, reply)) = commands.try_recv() else { return None };
        reply.send(Err(Fault::closed())).unwrap();
        Some(changes)
    };
    let accepted = End::Posted(Outcome::Answered { status: StatusCode::NO_CONTENT, retry_after: None });
    for number in 1..20_000 {
        let version = 2 * u64::try_from(number).unwrap();
        for what in [What::Changed(pod(number, version)), What::Deleted(pod(number, version + 1))] {
            assert!(core.observe(PodEvent { scope: Scope(0), what }).is_continue());
        }
        while let Some(attempt) = core.dispatcher.next(Instant::now()) {
            core.settle(attempt, &accepted, Duration::ZERO);
        }
        if number % 100 == 0 {
            keep(&mut core);
        }
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    let changes = keep(&mut core).expect("it is tried again");
    assert!(changes.anew, "what is there now takes the place of all that was");
    assert!(changes.known.len() + changes.due.len() < 15_000, "{} {}", changes.known.len(), changes.due.len());
}

#[test]
fn a_directory_holds_as_long_as_nobody_else_has_had_the_lease() {
    let term = |own: &str, before: Option<&str>| Term { own: own.to_owned(), before: before.map(ToOwned::to_owned) };
    let holds = |kept: Option<&str>, term: Option<Term>, has_position: bool| {
        let mark = Mark { selection: Digest::of(""), term: kept.map(ToOwned::to_owned), told: None, global: vec![] };
        let directory = Directory { store: Store::by_hand().0, selection: Digest::of(""), term };
        let memory = Memory { mark, known: vec![], due: vec![] };
        Journal::open(directory, Ok(Some(memory)), has_position, &Metrics::default()).1.is_some()
    };
    assert!(holds(Some("u/5"), Some(term("u/5", Some("u/4"))), true), "the same replica after a crash");
    assert!(holds(Some("u/4"), Some(term("u/5", Some("u/4"))), true), "the same replica, or its heir, after a release");
    assert!(!holds(Some("u/3"), Some(term("u/5", Some("u/4"))), true), "somebody had it in between");
    assert!(!holds(Some("u/4"), Some(term("v/0", None)), true), "another Lease");
    assert!(holds(Some("u/3"), Some(term("u/5", Some("u/4"))), false), "nothing is newer");
    assert!(holds(Some("u/3"), None, false), "there is no Lease any more");
}

/// It is found out while what was written at the start is still on its way, and that write is not the one which empties
/// the directory.
#[tokio::test(start_paused = true)]
async fn the_directory_of_a_cluster_that_turns_out_to_be_an_older_one_is_emptied() {
    for first in [Ok(Size::default()), Err(Fault::closed())] {
        let known = Known { id: pod(1, 50).id, version: ResourceVersion(50), scope: Scope(0), annotation: None };
        let told = Some(vec![ResourceVersion(50)]);
        let mark = Mark { selection: Digest::of(""), term: None, told, global: vec![endpoint(0).digest()] };
        let (mut core, _told) = core(None, false, 2, 1);
        let (store, commands) = Store::by_hand();
        let memory = Memory { mark, known: vec![known], due: vec![] };
        core.take_up(Directory { store, selection: Digest::of(""), term: None }, Ok(Some(memory)));
        let Ok(Command::Keep(changes, reply)) = commands.try_recv() else { panic!("nothing is written") };
        assert!(!changes.anew);
        let list = |core: &mut Core| {
            core.observe(PodEvent { scope: Scope(0), what: What::ListBegan }).is_break()
                || core.observe(PodEvent { scope: Scope(0), what: What::Listed(pod(2, 5)) }).is_break()
                || core.observe(PodEvent { scope: Scope(0), what: What::ListEnded(ResourceVersion(9)) }).is_break()
        };
        assert!(list(&mut core));
        reply.send(first).unwrap();
        assert!(!list(&mut core));
        core.keep();
        tokio::time::advance(Duration::from_secs(6)).await;
        core.keep();
        let Ok(Command::Keep(changes, _reply)) = commands.try_recv() else { panic!("nothing is written") };
        let known: Vec<_> = changes.known.iter().map(|(pod, known)| (pod.uid(), known.is_some())).collect();
        assert_eq!((changes.anew, known), (true, vec![("2", true)]));
    }
}
