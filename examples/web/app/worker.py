import signal
import threading

import jobs

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
queue = jobs.connect()
print("waiting for jobs")
while not stop.is_set():
    job = queue.execute("select id, text from job where not is_done order by id limit 1").fetchone()
    if job is None:
        stop.wait(0.2)
        continue
    print(f"job {job[0]}: {job[1]}")
    queue.execute("update job set is_done = 1 where id = ?", job[:1])
print("stopped between two jobs")
