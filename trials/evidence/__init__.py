"""What the techniques do to real models: judges and documents, measured where they are read.

models      which they are
remembered  an engine whose answers are kept, so that a run can be continued and methods share calls
questions   questions among documents, and keys among pairs
reading     one question asked in some way
places      what is found of each kind, and where the right document stood
pairs       a data set judged by every method
tables      the page that shows it all
"""
