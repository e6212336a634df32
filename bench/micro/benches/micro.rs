//! The cases by time: `make bench-micro`. By instructions they are counted by `src/main.rs`.

use criterion::{Criterion, criterion_group, criterion_main};

fn micro(criterion: &mut Criterion) {
    for mut case in weir_bench_micro::cases() {
        let name = case.name().to_owned();
        criterion.bench_function(&name, |bencher| bencher.iter(|| case.once()));
    }
}

criterion_group!(all, micro);
criterion_main!(all);
