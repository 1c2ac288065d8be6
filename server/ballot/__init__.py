"""One call of a judge, from a ballot to a prompt, and from the engine's answer to a call.

letters    under which the candidates are known
forms      what is asked, and how an answer is read: relation, score, likert
templates  built-in and inline, checked
render     the prompt
call       the engine asked once
bias       the slot bias that two calls show, kept for those who make one
"""
