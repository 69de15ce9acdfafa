"""AI customers: a model that plays the customer, a model that judges, and the rules that neither can change.

Knows, module by module: `plans` the steps as values, `conversation_data` what a model sees of a conversation,
`masking` what it never sees, `prompts` what it is asked, `customer` the turns of a customer, `customer_faults` when
the customer and not the bot is at fault, `judge` and `evidence` how votes become a verdict, `model_client` the chat-
completions wire, `recordings` stored model calls, `budget` the limits, `model_calls` all of these for one run,
`interval` pass rates, `labelled` the measurement of a judge, `peer_scripts` the AI scripts of the web-messaging
tester. Must not know: scenarios as a whole, reports, the command line.
"""
