"""MLflow tracking: every point is written to disk first and reaches the server later, exactly once.

A run is identified by its key, the stem of its files in the store's folder `points/`. No answer of a server is needed
to begin, continue or end a run.

    local key     `local-HEX`: no server knew the run when it began.
        |             KEY.jsonl       header, points, end          (run_files.PointFile)
        |             KEY.unsent/N/   artifacts, models, tags, data sets   (run_files.Outbox)
        |
        |         server.Server.run_of: creates the run from the header, tagged `distill.kept_as=KEY`,
        |         or finds the run with that tag, and notes its id in KEY.sent.
        v
    server run    A run that a reachable server created at once starts here: its id is its key.
        |
        |         worker.Worker       sends the points behind the noted offset about once a second.
        |         session.TrackedRun  sends a request at once, or keeps it while older ones wait.
        |         server.Server.deliver, when a run ends, at the end of a later run, or by `distill sync`
        |                             (server.deliver_all): points, then kept requests, then the end.
        v
    sent          KEY.sent holds `offset` = size of KEY.jsonl and `ended`; KEY.unsent/ is gone.

Points sent twice count once (their times are equal), and so do requests (each names what it replaces; a model is found
by its run, its name and the digest of its content, and completed: `logged_models`). A process holds
a lock on the files of its runs; `run_files.end_dead_runs` records a run whose process died as KILLED. A store that was
moved leads its own database to its new folder (`client.follow_store`).
"""
