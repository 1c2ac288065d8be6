"""Text to token ids and back: no model is needed here.

prompts     from a prompt to ids, whole or cut into segments
control     a tokenizer's control tokens, and how to spell them
literal     somebody else's text while a template is rendered around it
fim         fill in the middle
room        what of a text to fill in stays where the context is short
vocabulary  the bytes of every token id
grammar     which tokens may come next
answer      from bytes to the text of an answer
"""
