//! A storage manager that pauses disks by nodes, and what may happen meanwhile.

use tapback::Disk;
use xenbus::{agent::vbd::Vbd as Phase, server::Faults};

use crate::world::{GUEST, Vbd, World, XVDA};

const RING: [(&str, &str); 2] = [("ring-ref", "8"), ("event-channel", "3")];
const FIRST: Disk = Disk { pid: 4711, minor: 3 };
const SECOND: Disk = Disk { pid: 4712, minor: 3 };

impl Vbd<'_> {
    async fn write(&self, name: &str, value: &str) {
        self.world.store.write(&self.node(name), value.as_bytes()).await.unwrap();
    }

    async fn ask_for_pause(&self) {
        self.write("pause", "").await;
    }

    async fn ask_for_no_pause(&self) {
        self.world.store.remove(&self.node("pause")).await.unwrap();
    }

    /// As a storage manager waits: at each event it looks whether the answer is there, or gone.
    async fn wait_for_answer(&self, is_paused: bool) {
        let watch = self.world.store.watch(&self.node("pause-done"));
        while self.read("pause-done").await.is_some() != is_paused {
            watch.next().await;
        }
    }

    async fn is_answered(&self) -> bool {
        self.world.settle().await;
        self.read("pause-done").await.is_some()
    }

    fn phase(&self) -> Phase {
        self.world.summary(self.device).unwrap().vbd
    }

    /// The tapdisk dies, its guest closes the disk and opens it again, and a script names another tapdisk.
    async fn replace_tapdisk(&self) {
        self.world.worker.dead.borrow_mut().insert(4711);
        self.world.worker.die();
        self.wait_for(5).await;
        self.show(6).await;
        self.wait_for(6).await;
        self.write("pid", "4712").await;
        self.show(1).await;
        self.wait_for(2).await;
        self.show_ring(&RING, 3).await;
    }
}

#[test]
fn a_pause_node_brings_the_disk_to_rest_is_answered_and_taken_back() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        for _ in 0..3 {
            vbd.ask_for_pause().await;
            vbd.wait_for_answer(true).await;
            assert!(world.worker.is_paused());
            assert_eq!((vbd.settled().await.as_str(), vbd.is_connected()), ("4", true), "its guest sees nothing");
            assert_eq!(vbd.phase(), Phase::Paused);
            vbd.ask_for_no_pause().await;
            vbd.wait_for_answer(false).await;
            assert!(!world.worker.is_paused());
        }
        assert_eq!((vbd.settled().await.as_str(), vbd.phase()), ("4", Phase::Unpaused));
    });
}

#[test]
fn what_is_seen_again_is_not_done_again() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        for value in ["", "again", ""] {
            vbd.write("pause", value).await;
            assert!(vbd.is_answered().await);
        }
        vbd.ask_for_no_pause().await;
        vbd.wait_for_answer(false).await;
        vbd.write("pause-token", "7").await;
        vbd.world.settle().await;
    });
    let lines = world.lines.of(XVDA);
    assert_eq!(lines, ["offered", "connected", "pausing", "paused", "resuming", "resumed"]);
}

#[test]
fn a_pause_that_hangs_holds_up_nothing_else_of_its_device() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_pause(true);
        vbd.ask_for_pause().await;
        assert!(!vbd.is_answered().await);
        for (shown, expected) in [(5, 5), (6, 6), (1, 2)] {
            vbd.show(shown).await;
            vbd.wait_for(expected).await;
        }
        vbd.detach(true).await;
        vbd.wait_for(6).await;
        vbd.remove().await;
        world.settle().await;
        assert_eq!((world.summary(XVDA), world.opener.open.get()), (None, 0));
        assert_eq!((world.worker.turned_back.get(), world.worker.is_paused()), (1, false), "nobody would resume it");
    });
}

#[test]
fn a_pause_that_nobody_wants_any_more_is_turned_back_and_never_answered() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_pause(true);
        vbd.ask_for_pause().await;
        world.settle().await;
        vbd.ask_for_no_pause().await;
        assert!(!vbd.is_answered().await);
        assert_eq!((world.worker.turned_back.get(), vbd.phase()), (1, Phase::Unpaused));
        vbd.ask_for_pause().await;
        world.settle().await;
        world.worker.set_slow_to_pause(false);
        vbd.wait_for_answer(true).await;
        assert!(world.worker.is_paused());
    });
}

#[test]
fn a_paused_disk_stays_paused_when_its_tapdisk_is_replaced() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
        world.worker.set_slow_to_pause(true);
        vbd.replace_tapdisk().await;
        assert_eq!((vbd.settled().await.as_str(), vbd.is_connected()), ("2", false), "not before it is at rest");
        assert!(vbd.is_answered().await, "and whoever paused it still believes so");
        world.worker.set_slow_to_pause(false);
        vbd.wait_for(4).await;
        assert!(world.worker.paused.borrow().contains(&SECOND) && vbd.is_answered().await);
        vbd.ask_for_no_pause().await;
        vbd.wait_for_answer(false).await;
        assert!(!world.worker.paused.borrow().contains(&SECOND));
    });
}

#[test]
fn a_disk_whose_tapdisk_has_died_is_at_rest() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.dead.borrow_mut().insert(FIRST.pid);
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
        vbd.ask_for_no_pause().await;
        vbd.wait_for_answer(false).await;
    });
}

#[test]
fn a_disk_that_shall_be_at_rest_from_the_start_is_not_served_before() {
    let world = World::new();
    world.run(async {
        let vbd = world.vbd(GUEST, XVDA).await;
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
        assert!(!world.worker.is_paused(), "there is no disk yet");
        world.worker.set_slow_to_pause(true);
        vbd.wait_for(2).await;
        vbd.run_script().await;
        vbd.show_ring(&RING, 3).await;
        assert_eq!((vbd.settled().await.as_str(), vbd.is_connected()), ("2", false));
        world.worker.set_slow_to_pause(false);
        vbd.wait_for(4).await;
        assert!(world.worker.is_paused());
    });
}

#[test]
fn a_disk_is_resumed_with_the_image_that_its_nodes_name_then() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        for (params, is_another) in [("aio:/a.img", false), ("vhd:/b.vhd", true), ("vhd:/b.vhd", false)] {
            vbd.ask_for_pause().await;
            vbd.wait_for_answer(true).await;
            vbd.write("params", params).await;
            world.settle().await;
            vbd.ask_for_no_pause().await;
            vbd.wait_for_answer(false).await;
            let resumed = world.worker.resumed.borrow().last().cloned().unwrap();
            assert_eq!((resumed.name.as_deref(), resumed.is_another), (Some(params), is_another));
        }
        assert_eq!((vbd.settled().await.as_str(), world.opener.opened.get()), ("4", 1));
    });
}

#[test]
fn a_disk_that_cannot_be_resumed_is_broken_takes_no_pauses_and_can_be_mended() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
        world.worker.unresumable.set(1);
        vbd.ask_for_no_pause().await;
        assert!(vbd.is_answered().await, "it was never resumed");
        assert_eq!((vbd.phase(), vbd.error().await.as_deref()), (Phase::Broken, Some("22 another parent")));
        for _ in 0..3 {
            vbd.ask_for_pause().await;
            world.settle().await;
            vbd.ask_for_no_pause().await;
            assert!(vbd.is_answered().await && vbd.phase() == Phase::Broken);
        }
        vbd.write("params", "vhd:/mended.vhd").await;
        vbd.wait_for_answer(false).await;
        assert_eq!((vbd.settled().await.as_str(), vbd.phase(), vbd.error().await), ("4", Phase::Unpaused, None));
    });
}

#[test]
fn a_pause_that_is_refused_is_told_and_asked_for_again() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.unpausable.set(3);
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
        world.settle().await;
        assert_eq!((world.worker.unpausable.get(), vbd.error().await), (0, None), "what went right is not told");
        assert!(world.lines.of(XVDA).contains(&"error 5: as the test wants it".to_owned()));
    });
}

#[test]
fn a_backend_that_starts_anew_goes_on_with_the_pause_that_it_finds() {
    for is_wanted in [true, false] {
        let world = World::new();
        world.run(async {
            let vbd = world.connected_vbd(GUEST, XVDA).await;
            vbd.ask_for_pause().await;
            vbd.wait_for_answer(true).await;
            world.stop();
            if !is_wanted {
                vbd.ask_for_no_pause().await;
            }
            world.start();
            assert_eq!(vbd.is_answered().await, is_wanted);
            assert_eq!((world.worker.is_paused(), vbd.is_connected()), (is_wanted, true));
            assert_eq!(world.worker.resumed.borrow().len(), usize::from(!is_wanted));
            if is_wanted {
                vbd.ask_for_no_pause().await;
                vbd.wait_for_answer(false).await;
            }
            assert_eq!((vbd.settled().await.as_str(), world.worker.is_paused()), ("4", false));
        });
    }
}

#[test]
fn what_somebody_else_has_paused_is_not_resumed() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.paused.borrow_mut().insert(FIRST);
        vbd.write("pause-token", "7").await;
        world.settle().await;
        world.stop();
        world.start();
        assert_eq!(vbd.settled().await, "4");
        assert!(world.worker.is_paused() && world.worker.resumed.borrow().is_empty());
    });
}

#[test]
fn a_directory_that_goes_during_a_pause_is_not_made_again_by_its_answer() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        world.worker.set_slow_to_pause(true);
        vbd.ask_for_pause().await;
        world.settle().await;
        vbd.remove().await;
        world.worker.set_slow_to_pause(false);
        world.settle().await;
        world.worker.set_slow_to_disconnect(None);
        world.settle().await;
        assert_eq!((vbd.read("state").await, vbd.read("pause-done").await), (None, None));
        assert_eq!((world.summary(XVDA), world.opener.open.get()), (None, 0));
    });
}

#[test]
fn a_directory_that_goes_unseen_is_not_made_again_by_an_answer() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_pause(true);
        vbd.ask_for_pause().await;
        world.settle().await;
        let hold_events = Faults { hold_events: true, ..Faults::default() };
        world.sockets.with_store(|server| server.set_faults(hold_events));
        vbd.remove().await;
        world.worker.set_slow_to_pause(false);
        world.settle().await;
        assert!(world.worker.is_paused(), "it would like to say so");
        assert_eq!(world.store.directory(&vbd.back).await.unwrap(), None);
        world.sockets.with_store(|server| {
            server.set_faults(Faults::default());
            server.let_go_of_events();
        });
        world.settle().await;
        assert_eq!(world.summary(XVDA), None);
    });
}

#[test]
fn a_directory_that_is_replaced_during_a_pause_begins_anew_and_is_looked_at_again() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        vbd.create().await;
        let watch = world.store.watch(&vbd.back);
        assert_eq!((vbd.settled().await.as_str(), vbd.phase()), ("1", Phase::Recycled), "the old one has not ended");
        assert_eq!(world.opener.open.get(), 1, "its disk is needed as long as its ring");
        for _ in 0..2 {
            vbd.ask_for_pause().await;
            world.settle().await;
            vbd.ask_for_no_pause().await;
            assert!(!vbd.is_answered().await, "what is recycled takes no pauses");
        }
        watch.take();
        world.worker.set_slow_to_disconnect(None);
        vbd.wait_for(2).await;
        world.settle().await;
        let touched = watch.take().iter().any(|path| path == vbd.back.as_str());
        assert!(touched, "whoever looks for devices is told to look");
        assert_eq!((vbd.phase(), vbd.is_answered().await), (Phase::Unpaused, false));
        vbd.run_script().await;
        vbd.show_ring(&RING, 3).await;
        vbd.wait_for(4).await;
        vbd.ask_for_pause().await;
        vbd.wait_for_answer(true).await;
    });
}

/// What is wanted of a disk, and what befalls it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Probe,
    Pause,
    Unpause,
    Crash,
    Remove,
    Add,
    Start,
    DomainDeath,
    Restart,
    Slow,
}

const STEPS: [Step; 10] = [
    Step::Probe,
    Step::Pause,
    Step::Unpause,
    Step::Crash,
    Step::Remove,
    Step::Add,
    Step::Start,
    Step::DomainDeath,
    Step::Restart,
    Step::Slow,
];

impl Vbd<'_> {
    /// Does a step; whoever writes into a directory looks first whether it is there, as every toolstack does.
    async fn take(&self, step: Step, pid: &mut u32) {
        let is_there = self.read("frontend").await.is_some();
        match step {
            Step::Probe if is_there => self.write("pause-token", "").await,
            Step::Pause if is_there => self.ask_for_pause().await,
            Step::Unpause if is_there => self.ask_for_no_pause().await,
            Step::Crash => {
                self.world.worker.dead.borrow_mut().insert(*pid);
                self.world.worker.paused.borrow_mut().clear();
                self.world.worker.die();
            }
            Step::Remove if is_there => self.remove().await,
            Step::Add => self.create().await,
            Step::Start if is_there => self.start(pid).await,
            Step::DomainDeath if is_there => self.detach(true).await,
            Step::Restart => {
                self.world.stop();
                // What it had it leaves to the next one.
                self.world.opener.open.set(0);
                self.world.start();
            }
            Step::Slow => {
                let slow = !self.world.worker.is_slow_to_pause.get();
                self.world.worker.set_slow_to_pause(slow);
            }
            _ => {}
        }
    }

    /// A script names a tapdisk that runs, and the guest opens its disk anew.
    async fn start(&self, pid: &mut u32) {
        if self.world.worker.dead.borrow().contains(pid) {
            *pid += 1;
        }
        self.run_script().await;
        self.write("pid", &pid.to_string()).await;
        if self.world.store.read(&self.front.join("backend").unwrap()).await.unwrap().is_some() {
            for state in [6, 1] {
                self.show(state).await;
                self.world.settle().await;
            }
            self.show_ring(&RING, 3).await;
        }
    }

    /// What holds when everybody has done what there was to do.
    async fn check(&self, pid: u32, told: &str) {
        self.world.settle().await;
        let wants = self.read("pause").await.is_some();
        let answered = self.read("pause-done").await.is_some();
        let is_dead = self.world.worker.dead.borrow().contains(&pid);
        let is_at_rest = is_dead || self.world.worker.is_paused();
        let Some(summary) = self.world.summary(self.device) else {
            assert!(self.read("frontend").await.is_none() && !self.is_connected(), "{told}");
            return;
        };
        // Until the tapdisk of a paused disk is known, nobody has a disk.
        let is_nowhere = summary.disk.is_none();
        assert!(!answered || is_at_rest || is_nowhere, "answered, and served: {told}: {summary:?}");
        if !self.world.worker.is_slow_to_pause.get() && self.read("frontend").await.is_some() {
            assert_eq!(answered, wants, "{told}: {summary:?}");
        }
    }
}

#[test]
fn random_stories_of_a_disk_hold_what_the_tables_promise() {
    let seed = test_support::seed();
    let mut state = seed | 1;
    let mut random = move |count: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % count as u64).unwrap()
    };
    for story in 0..test_support::cycles(6, 200) {
        let world = World::new();
        let mut told = format!("seed {seed}, story {story}:");
        world.run(async {
            let mut pid = 4711;
            let vbd = world.ready_vbd(GUEST, XVDA).await;
            vbd.show_ring(&RING, 3).await;
            vbd.wait_for(4).await;
            for _ in 0..12 {
                let step = STEPS[random(STEPS.len())];
                told += &format!(" {step:?}");
                vbd.take(step, &mut pid).await;
                vbd.check(pid, &told).await;
            }
            world.worker.set_slow_to_pause(false);
            vbd.check(pid, &told).await;
            if vbd.read("frontend").await.is_some() {
                vbd.detach(true).await;
                vbd.wait_for(6).await;
                vbd.remove().await;
            }
            world.settle().await;
            assert_eq!((world.summary(XVDA), world.opener.open.get(), vbd.is_connected()), (None, 0, false), "{told}");
        });
    }
}
