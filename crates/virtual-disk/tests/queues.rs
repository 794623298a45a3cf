//! A disk with several queues, each on a thread of its own: what is done to the disk is done to all of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::Arc, time::Duration};

use block_core::ErrorKind;
use storage_io::{BufferPool, EngineChoice, Executor, Fault, FaultRule, OperationKind, mailbox};
use support::{Host, Script, bytes, failed, is_done, spec};
use virtual_disk::{DiskState, FORCED_CLOSE_GRACE, Report, Settings};

#[test]
fn queues_see_what_others_have_written() {
    let host = Host::running(1);
    let queues = [host.disk.queue(), host.add_queue(), host.add_queue()];
    assert_eq!(queues.each_ref().map(|queue| queue.number()), [0, 1, 2]);
    let scripts = queues.each_ref().map(|queue| {
        let script = Script::default();
        queue.serve(script.clone()).detach();
        script
    });
    for (index, script) in scripts.iter().enumerate() {
        let byte = u8::try_from(index).unwrap() + 1;
        let write = script.write(u64::from(byte) * 4096, byte, 4096);
        host.settle();
        assert!(is_done(script.answer(write)));
    }
    for script in &scripts {
        let reads = [1, 2, 3].map(|byte| (byte, script.read(u64::from(byte) * 4096, 4096)));
        host.settle();
        assert!(reads.into_iter().all(|(byte, read)| bytes(script.answer(read)) == [byte; 4096]));
    }
    let taken: Vec<_> = host.disk.status().queues().iter().map(|queue| queue.requests()).collect();
    assert_eq!(taken, [4, 4, 4]);
}

#[test]
fn a_pause_waits_for_what_runs_on_any_queue_and_says_what() {
    let host = Host::running(2);
    let queue = host.add_queue();
    let script = Script::default();
    queue.serve(script.clone()).detach();
    host.settle();
    host.tap.close();
    let write = script.write(4096, 1, 512);
    host.settle();
    let error = host.run(async |disk| disk.pause(Some(Duration::from_secs(2))).await).unwrap_err();
    assert_eq!(error.to_string(), "1 request in flight: write 0x1000+0x200 for 2.0 s");
    assert_eq!(host.disk.status().state(), DiskState::Running);
    host.tap.open();
    host.settle();
    assert!(is_done(script.answer(write)));
    host.tap.close();
    let write = script.write(8192, 1, 512);
    host.settle();
    let pausing = host.begin(async |disk| disk.pause(None).await);
    host.settle();
    let held = script.read(8192, 512);
    host.settle();
    assert!(!pausing.is_done());
    host.tap.open();
    host.settle();
    assert_eq!(pausing.result().unwrap().requests, 1);
    assert!(is_done(script.answer(write)) && script.answer(held).is_none());
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.settle();
    assert_eq!(bytes(script.answer(held)), [1; 512]);
}

#[test]
fn a_pause_can_be_turned_back_while_it_waits() {
    let host = Host::running(3);
    let script = Script::default();
    host.add_queue().serve(script.clone()).detach();
    host.settle();
    assert!(!host.disk.cancel(), "nothing is being done");
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    let pausing = host.begin(async |disk| disk.pause(None).await);
    host.settle();
    let late = script.read(4096, 512);
    assert!(host.disk.cancel());
    host.settle();
    assert_eq!(pausing.result().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(host.disk.status().state(), DiskState::Running);
    host.tap.open();
    host.settle();
    assert_eq!(bytes(script.answer(late)), [0; 512]);
}

#[test]
fn a_new_queue_does_what_the_others_do() {
    let host = Host::new(4);
    let serve = || {
        let script = Script::default();
        host.add_queue().serve(script.clone()).detach();
        script
    };
    let early = serve();
    let refused = early.read(0, 512);
    host.settle();
    assert_eq!(failed(early.answer(refused)), ErrorKind::Closed);
    host.run(async |disk| disk.open(spec("/a"), Settings::default()).await).unwrap();
    host.run(async |disk| disk.pause(None).await).unwrap();
    let late = serve();
    let held = [early.read(0, 512), late.read(0, 512)];
    host.settle();
    assert_eq!((early.answered(), late.answered()), (0, 0));
    host.run(async |disk| disk.resume(None).await).unwrap();
    let latest = serve();
    let served = latest.read(0, 512);
    host.settle();
    assert_eq!(bytes(early.answer(held[0])), bytes(late.answer(held[1])));
    assert_eq!(bytes(latest.answer(served)), [0; 512]);
}

#[test]
fn a_queue_that_has_gone_is_not_waited_for() {
    let host = Host::running(5);
    let (stays, goes, dies) = (Script::default(), Script::default(), Script::default());
    host.disk.queue().serve(stays.clone()).detach();
    let queue = host.add_queue();
    let serving = queue.serve(goes.clone());
    let seed = host.disk.add_queue();
    let dying = host.add_queue();
    dying.serve(dies.clone()).detach();
    drop(dying);
    host.settle();
    assert_eq!(host.disk.status().queues().len(), 4);
    goes.end();
    host.settle();
    drop((queue, serving, seed));
    // Its thread ends with a request under way.
    host.tap.close();
    dies.write(0, 1, 512);
    host.settle();
    let pausing = host.begin(async |disk| disk.pause(None).await);
    host.settle();
    assert!(!pausing.is_done());
    let unwinding = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        struct Ending(Executor);
        impl Drop for Ending {
            fn drop(&mut self) {
                self.0.end_tasks();
            }
        }
        let _ending = Ending(host.others.borrow()[1].clone());
        panic!("the thread of a queue dies");
    }));
    assert!(unwinding.is_err());
    host.tap.open();
    host.settle();
    pausing.result().unwrap();
    assert_eq!(host.disk.status().queues().len(), 1);
}

#[test]
fn closing_by_force_gives_up_what_hangs_on_any_queue() {
    let host = Host::running(6);
    let (near, far) = (Script::default(), Script::default());
    host.disk.queue().serve(near.clone()).detach();
    host.add_queue().serve(far.clone()).detach();
    host.settle();
    host.tap.close();
    let lost = far.write(0, 1, 512);
    host.settle();
    let before = host.clock.now();
    let error = host.run(async |disk| disk.force_close().await).unwrap_err();
    assert_eq!(host.clock.now() - before, FORCED_CLOSE_GRACE);
    assert!(error.to_string().starts_with("storage hangs: 1 request in flight: write 0x0+0x200"), "{error}");
    let (late, also_late) = (near.read(0, 512), far.read(0, 512));
    host.settle();
    assert_eq!(failed(near.answer(late)), ErrorKind::Closed);
    assert_eq!(failed(far.answer(also_late)), ErrorKind::Closed);
    assert_eq!(host.disk.status().state(), DiskState::Stuck);
    host.tap.open();
    host.settle();
    assert_eq!(host.disk.status().state(), DiskState::Closed);
    assert!(far.answer(lost).is_none());
}

#[test]
fn closing_by_force_waits_for_no_queue_whose_thread_hangs() {
    let host = Host::running(7);
    let script = Script::default();
    host.add_queue().serve(script.clone()).detach();
    host.settle();
    let hanging = host.others.borrow_mut().pop().unwrap();
    let error = host.run(async |disk| disk.force_close().await).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::TimedOut, DiskState::Stuck));
    host.others.borrow_mut().push(hanging);
    host.settle();
    assert_eq!(host.disk.status().state(), DiskState::Closed);
}

#[test]
fn what_hangs_on_one_queue_is_told_with_what_home_is_doing() {
    let host = Host::running(8);
    let script = Script::default();
    host.add_queue().serve(script.clone()).detach();
    host.settle();
    host.tap.close();
    script.write(0, 1, 512);
    host.pass(Duration::from_secs(20));
    let reports = host.reports.take();
    assert!(matches!(&reports[..], [Report::Stuck(stuck)] if stuck.queue == 1), "{reports:?}");
    host.tap.open();
}

#[test]
fn failures_name_their_queue_and_its_kicks() {
    let host = Host::running(9);
    let script = Script::default();
    host.add_queue().serve(script.clone()).detach();
    host.settle();
    (0..3).for_each(|index| _ = script.read(index * 512, 512));
    host.settle();
    host.faults.add(FaultRule::once_after(0, Fault::error(28)).of(OperationKind::Write));
    script.write(0, 1, 512);
    host.settle();
    let failures = host.reports.failures();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((failure.queue, failure.kicks_in, failure.requests), (1, 2, 4));
    assert!(failure.kicks_out >= 1);
}

/// The same on real threads: two queues write and read their halves of the disk while it is paused and resumed.
#[test]
fn two_threads_serve_while_the_disk_is_paused_and_resumed() {
    const ROUNDS: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let home = Executor::new(EngineChoice::Probe).unwrap();
    let files = std::rc::Rc::new(storage_io::Files);
    let disk = virtual_disk::Disk::new(&home, files, BufferPool::new(1 << 20), Arc::new(()));
    home.block_on(disk.open(spec(path.to_str().unwrap()), Settings::default())).unwrap();
    let (ended, mut ends) = mailbox();
    let threads: Vec<_> = [0, 4 << 20]
        .into_iter()
        .map(|start| {
            let (seed, ended) = (disk.add_queue(), ended.clone());
            std::thread::spawn(move || {
                let executor = Executor::new(EngineChoice::Probe).unwrap();
                let queue = seed.start(&executor, BufferPool::new(1 << 20));
                let script = Script::default();
                let serving = queue.serve(script.clone());
                executor.block_on(async {
                    for round in 0..ROUNDS {
                        let (offset, byte) = (start + round % 64 * 4096, u8::try_from(round % 251).unwrap());
                        let write = script.write(offset, byte, 4096);
                        assert!(is_done(Some(script.answered_to(write).await)));
                        let read = script.read(offset, 4096);
                        assert_eq!(bytes(Some(script.answered_to(read).await)), [byte; 4096]);
                    }
                    script.end();
                    serving.await;
                });
                drop(queue);
                executor.end_tasks();
                ended.send(()).unwrap();
            })
        })
        .collect();
    drop(ended);
    let mut rests = 0;
    home.block_on(async {
        let mut left = threads.len();
        while left > 0 {
            match rests % 2 {
                0 => disk.pause(None).await.map(drop).unwrap(),
                _ => disk.quiesce(None).await.map(drop).unwrap(),
            }
            disk.resume(None).await.unwrap();
            rests += 1;
            while ends.try_recv().is_some() {
                left -= 1;
            }
        }
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    home.block_on(disk.close()).unwrap();
    let requests = disk.status().totals().requests();
    assert_eq!(requests, 4 * ROUNDS, "what queues have done stays when they go");
    println!("{rests} rests");
    home.end_tasks();
}
