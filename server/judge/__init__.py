"""The judge: what it is asked, how its answers are read, and what is concluded from them.

ballot       the nouns
calibration  the store of slot biases, of what ties are worth, and of fits
letters      under which the candidates are known
forms        what is asked, and how an answer is read: relation, score, likert
template     built-in and inline, checked
render       the prompt
check        what makes a ballot impossible
call         the engine asked once
bias         the slot bias that two calls show, kept for those who make one
ties         what the judge says of identical answers, kept to tell ties by
ladder       rung by rung, until the orders agree
decision     the verdict, whom it prefers, and how probably rightly
wire         the body of a request
judgement    the body of a reply
judging      one request, from body to judgement
"""
