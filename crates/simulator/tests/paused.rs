//! Pause, quiesce and resume under requests in flight on two queues: what is held is answered afterwards, also when the
//! disk has got a new leaf meanwhile, and a crash at any step of it loses nothing.

use std::rc::Rc;

use image_chain::{ChainSpec, ImageName};
use simulator::{Base, Inspector, Mix, Plan, Replay, Shape, Simulation, seeds};
use storage_io::{Access, BufferPool, Executor, Task};
use test_support::{cycles, seed};
use virtual_disk::{Disk, DiskState, Settings};

fn run(test: &'static str, base: Base, usual: u64) {
    for seed in seeds(seed(), cycles(usual, usual * 20)) {
        let _replay = Replay::of(test, seed);
        let plan = Plan { shape: Shape::small(base), mix: Mix::EVERYTHING, in_flight: 32 };
        let mut simulation = Simulation::new(seed, plan);
        simulation.close().expect("a new disk can be closed");
        let mut inspector = Inspector::new(seed);
        pause_and_resume(&mut simulation, &mut inspector);
        simulation.open().expect("a closed disk can be opened");
        simulation.check();
    }
}

fn pause_and_resume(simulation: &mut Simulation, inspector: &mut Inspector) {
    let executor = simulation.executor.clone();
    let files = simulation.files();
    let disk = Disk::new(&executor, Rc::new(files.clone()), BufferPool::new(1 << 20), std::sync::Arc::new(()));
    executor.block_on(disk.open(spec(simulation), Settings::default())).expect("the images can be opened");
    let far = disk.add_queue().start(&executor, BufferPool::new(1 << 20));
    let serving = [disk.queue(), far].map(|queue| queue.serve(simulation.source(400)));
    for _ in 0..3 {
        let steps = simulation.random().below(1500);
        (0..steps).all(|_| executor.step());
        let flush = simulation.begin_flush();
        let quiesces = simulation.random().once_in(3);
        let rest = if quiesces { Job::Quiesce } else { Job::Pause };
        step_through(simulation, inspector, &executor, job(&executor, &disk, rest));
        simulation.end_flush(flush);
        if quiesces {
            step_through(simulation, inspector, &executor, job(&executor, &disk, Job::Resume(None)));
            continue;
        }
        if simulation.random().once_in(2) {
            simulation.put_leaf();
            let leaf = simulation.images().leaf();
            files.put(&leaf.path, std::sync::Arc::new(leaf.storage.clone()));
        }
        let named = Some(spec(simulation));
        step_through(simulation, inspector, &executor, job(&executor, &disk, Job::Resume(named)));
    }
    for serving in serving {
        let source = executor.block_on(serving);
        assert_eq!(source.unanswered(), 0, "all requests were answered");
    }
    let flush = simulation.begin_flush();
    step_through(simulation, inspector, &executor, job(&executor, &disk, Job::Close));
    simulation.end_flush(flush);
    assert_eq!(disk.status().state(), DiskState::Closed);
}

fn spec(simulation: &Simulation) -> ChainSpec {
    let leaf = simulation.images().leaf();
    ChainSpec::new(ImageName { kind: leaf.kind, path: leaf.path.clone() }, Access::Write)
}

enum Job {
    Pause,
    Quiesce,
    Resume(Option<ChainSpec>),
    Close,
}

/// Starts a change of the disk's state.
fn job(executor: &Executor, disk: &Disk, job: Job) -> Task<()> {
    let disk = disk.clone();
    executor.spawn(async move {
        let done = match job {
            Job::Pause => disk.pause(None).await.map(drop),
            Job::Quiesce => disk.quiesce(None).await.map(drop),
            Job::Resume(spec) => disk.resume(spec).await.map(drop),
            Job::Close => disk.close().await,
        };
        done.expect("the disk changes its state");
    })
}

/// Runs the job to its end, with crashes now and then.
fn step_through(simulation: &mut Simulation, inspector: &mut Inspector, executor: &Executor, job: Task<()>) {
    let ended = Rc::new(std::cell::Cell::new(false));
    let end = ended.clone();
    let job = executor.spawn(async move {
        job.await;
        end.set(true);
    });
    while !ended.get() && executor.step() {
        if simulation.random().once_in(40) {
            inspector.look(simulation, 4);
        }
    }
    executor.block_on(job);
    inspector.look(simulation, 4);
}

#[test]
fn a_dynamic_disk() {
    run("paused a_dynamic_disk", Base::Dynamic, 12);
}

#[test]
fn a_raw_disk() {
    run("paused a_raw_disk", Base::Raw, 6);
}
