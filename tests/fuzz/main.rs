//! What the fuzzers of fuzz/ kept, on any toolchain: each file of each corpus, and each one cut short.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its helpers are tests too")]
#![allow(missing_docs, reason = "no library")]

mod checks;

use std::path::Path;

fn run(name: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        // Told only where it fails.
        println!("{}", path.display());
        check(&data);
        for end in 0..data.len().min(256) {
            check(data.get(..end).unwrap());
        }
        files += 1;
    }
    assert!(files > 0, "there is nothing in the corpus of {name}");
}

macro_rules! corpora {
    ($($name:ident: $promise:ident;)*) => {
        $(#[test]
        fn $promise() {
            run(stringify!($name), checks::$name);
        })*
    };
}

corpora! {
    table: a_table_is_one_that_init_can_run_or_an_error_in_a_line_that_is_there;
    status: what_a_bundle_says_is_understood_or_not_and_never_shown_as_it_came;
    lines: output_comes_out_as_whole_lines_behind_its_daemons_name;
    selection: what_is_selected_is_of_the_table_in_its_order;
}
