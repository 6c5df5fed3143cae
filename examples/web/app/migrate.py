import jobs

jobs.connect().execute("create table if not exists job (id integer primary key, text text not null, is_done integer not null default 0)")
print("the table of jobs is there")
