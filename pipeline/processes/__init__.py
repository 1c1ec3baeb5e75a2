"""A stage in several processes: started by torchrun, followed from this one.

The launching process (`launch`) prepares the data, starts torchrun and shows what process 0 reports. Each process of
the stage (`rank`) connects to it by a socket in a private folder, as which both speak lines of JSON (`wire`). A process
ends when that connection does, so that none outlives the run.
"""
