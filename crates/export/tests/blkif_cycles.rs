//! Rings that come and go leave nothing behind. Alone in its process: descriptors are counted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "blkif/world.rs"]
mod world;

use guest::FrontOptions;
use wire::blkif::Abi;
use world::{World, pattern};

#[test]
fn a_ring_is_connected_again_and_again_without_leaving_anything() {
    let world = World::new();
    let cycles = test_support::cycles(100, 1000);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for cycle in 0..cycles {
        let abi = if cycle % 2 == 0 { Abi::X86_64 } else { Abi::X86_32 };
        let (front, ring) = world.front(FrontOptions { abi, ..FrontOptions::default() });
        world.run(async {
            let writing: Vec<_> = (0..8_u64)
                .map(|number| {
                    let front = front.clone();
                    world.executor.spawn(async move { front.write(number * 8, &pattern(8, 1)).await })
                })
                .collect();
            for writing in writing {
                writing.await.unwrap();
            }
            ring.disconnect().await;
        });
        assert_eq!((front.stray_pages(), front.release_ring().unwrap()), (0, 0));
        world.is_clean();
        if cycle == 10 {
            before = descriptors();
        }
    }
    assert!(descriptors() <= before, "{} descriptors, {before} before", descriptors());
}
