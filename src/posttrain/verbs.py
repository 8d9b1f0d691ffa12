"""Every verb of the command line: where its keys and its recipe are, and one line of help. Nothing is imported."""

# verb: (config module:class, recipe module:function, one line of help)
VERBS: dict[str, tuple[str, str, str]] = {
    "quickstart": (
        "posttrain.recipes.quickstart_config:QuickstartConfig",
        "posttrain.recipes.quickstart:run",
        "Turn the embedded base model into an assistant and measure it: minutes on a laptop, offline.",
    ),
    "sft": (
        "posttrain.recipes.sft_config:SftConfig",
        "posttrain.recipes.sft:run",
        "Supervised fine-tuning on conversations, prompt and answer pairs, or plain text.",
    ),
    "reward": (
        "posttrain.recipes.reward_config:RewardConfig",
        "posttrain.recipes.reward:run",
        "Train a reward model on compared answers, and measure how far to trust it.",
    ),
    "dpo": (
        "posttrain.recipes.preference_config:DpoConfig",
        "posttrain.recipes.preference:run",
        "Learn from compared answers directly: DPO, IPO, hinge, APO, BCO, SPPO and their kin.",
    ),
    "kto": (
        "posttrain.recipes.preference_config:KtoConfig",
        "posttrain.recipes.preference:run",
        "Learn from answers that people called good or bad.",
    ),
    "orpo": (
        "posttrain.recipes.preference_config:OrpoConfig",
        "posttrain.recipes.preference:run",
        "Fine-tune and learn from compared answers at once, without a reference (odds ratio).",
    ),
    "simpo": (
        "posttrain.recipes.preference_config:SimpoConfig",
        "posttrain.recipes.preference:run",
        "Learn from compared answers by length-normalised rewards, without a reference.",
    ),
    "cpo": (
        "posttrain.recipes.preference_config:CpoConfig",
        "posttrain.recipes.preference:run",
        "Contrastive preference optimisation: no reference, and a fine-tuning term.",
    ),
    "ppo": (
        "posttrain.recipes.ppo_config:PpoConfig",
        "posttrain.recipes.ppo:run",
        "Reinforcement learning from a reward model with a value model and a leash (RLHF).",
    ),
    "grpo": (
        "posttrain.recipes.grpo_config:GrpoConfig",
        "posttrain.recipes.grpo:run",
        "Reinforcement learning from groups of graded answers: GRPO, DAPO, RLOO, GSPO, CISPO and their kin.",
    ),
    "plan": (
        "posttrain.recipes.plan_config:PlanConfig",
        "posttrain.recipes.plan:run",
        "What a recipe takes before it is run: memory, time, disk, price, and which key makes it fit.",
    ),
    "run": (
        "posttrain.recipes.pipeline_config:PipelineConfig",
        "posttrain.recipes.pipeline:run",
        "Run the stages of a recipe one after the other, each on the model of the one before.",
    ),
    "sample": (
        "posttrain.recipes.sample_config:SampleConfig",
        "posttrain.recipes.sample:run",
        "Let one or more models answer prompts several times each, into a file or the store.",
    ),
    "eval": (
        "posttrain.recipes.eval_config:EvalConfig",
        "posttrain.recipes.eval:run",
        "Measure a model with intervals: suites of tasks, or questions with known answers; compare and gate.",
    ),
    "harness": (
        "posttrain.recipes.harness_config:HarnessConfig",
        "posttrain.recipes.harness:run",
        "Take tasks of lm-evaluation-harness (YAML) and inspect-ai (Python), with our own intervals.",
    ),
    "redteam": (
        "posttrain.recipes.redteam_config:RedteamConfig",
        "posttrain.recipes.redteam:run",
        "Attack a model's refusals, measure what gives way, and write the breaks down as training data.",
    ),
    "ledger": (
        "posttrain.recipes.ledger_config:LedgerConfig",
        "posttrain.recipes.ledger:run",
        "What every stage of training taught a model and what it took away, with learning against forgetting.",
    ),
    "merge": (
        "posttrain.recipes.merge_config:MergeConfig",
        "posttrain.recipes.merge:run",
        "Models of one base to one, weight by weight: between base and tuned (WiSE-FT), soups, TIES; and a sweep.",
    ),
    "judge": (
        "posttrain.recipes.judge_config:JudgeConfig",
        "posttrain.recipes.judge:run",
        "Let a model compare or rate answers, and measure how far to trust it.",
    ),
    "compare": (
        "posttrain.recipes.compare_config:CompareConfig",
        "posttrain.recipes.compare:run",
        "Let two models answer the same prompts: win rate with interval, length-controlled too.",
    ),
    "card": (
        "posttrain.recipes.card_config:CardConfig",
        "posttrain.recipes.card:run",
        "Write one page on a model: what it learned, what it forgot, safety on both sides, cost, lineage.",
    ),
    "constitution": (
        "posttrain.recipes.constitution_config:ConstitutionConfig",
        "posttrain.recipes.constitution:run",
        "Critique, revise and compare answers by written principles (Constitutional AI).",
    ),
    "instruct": (
        "posttrain.recipes.instruct_config:InstructConfig",
        "posttrain.recipes.instruct:run",
        "Make instructions and answers from a few seeds: self-instruct, Evol-Instruct, Magpie, backtranslation.",
    ),
    "toolformer": (
        "posttrain.recipes.toolformer_config:ToolformerConfig",
        "posttrain.recipes.toolformer:run",
        "Put calls of tools into texts where they help a model to foresee what follows (Toolformer).",
    ),
    "annotate": (
        "posttrain.recipes.annotate_config:AnnotateConfig",
        "posttrain.recipes.annotate:run",
        "Serve a web page on which a team compares answers; the votes go to a preference store.",
    ),
    "export": (
        "posttrain.recipes.export_config:ExportConfig",
        "posttrain.recipes.export:run",
        "Write a model for others to run (Hugging Face, adapter, GGUF, int8, int4, NF4), and check what was written.",
    ),
    "serve": (
        "posttrain.recipes.serve_config:ServeConfig",
        "posttrain.recipes.serve:run",
        "Serve one or more models over OpenAI's API, with a chat page, guardrails, votes and A/B tests.",
    ),
    "guard": (
        "posttrain.recipes.guard_config:GuardConfig",
        "posttrain.recipes.guard:run",
        "Try a file of guardrails on texts: what each would meet, precision, recall and over-refusal.",
    ),
    "ab plan": (
        "posttrain.recipes.ab_plan_config:AbPlanConfig",
        "posttrain.recipes.ab_plan:run",
        "How many users, or comparisons, an A/B test takes.",
    ),
    "ab report": (
        "posttrain.recipes.ab_report_config:AbReportConfig",
        "posttrain.recipes.ab_report:run",
        "How an A/B test stands, and whether one may stop: valid however often one looks.",
    ),
    "promote": (
        "posttrain.recipes.promote_config:PromoteConfig",
        "posttrain.recipes.promote:run",
        "Put a model into a live folder that a server follows, or go back to the version before.",
    ),
    "chat": (
        "posttrain.recipes.chat_config:ChatConfig",
        "posttrain.recipes.chat:run",
        "Talk with a model or a run folder in the terminal.",
    ),
    "report": (
        "posttrain.recipes.report_config:ReportConfig",
        "posttrain.recipes.report:run",
        "Write the page report.html of a run folder from the numbers it holds.",
    ),
    "feedback import": (
        "posttrain.recipes.feedback_import_config:FeedbackImportConfig",
        "posttrain.recipes.feedback_import:run",
        "Read ballots, pairs, rankings, Argilla or Label Studio files into a preference store.",
    ),
    "feedback export": (
        "posttrain.recipes.feedback_export_config:FeedbackExportConfig",
        "posttrain.recipes.feedback_export:run",
        "Write a preference store for training, for Argilla or Label Studio, or whole.",
    ),
    "feedback report": (
        "posttrain.recipes.feedback_report_config:FeedbackReportConfig",
        "posttrain.recipes.feedback_report:run",
        "What the ballots of a preference store say: agreement, annotators, models, and whether to stop.",
    ),
    "feedback forget": (
        "posttrain.recipes.feedback_forget_config:FeedbackForgetConfig",
        "posttrain.recipes.feedback_forget:run",
        "Delete what a store holds of a user: exchanges, votes, texts.",
    ),
    "doctor": (
        "posttrain.recipes.doctor_config:DoctorConfig",
        "posttrain.recipes.doctor:run",
        "Check data, a model and this machine: what is wrong, and how to mend it.",
    ),
    "pocket build": (
        "posttrain.recipes.pocket_config:PocketBuildConfig",
        "posttrain.recipes.pocket:run",
        "Train the embedded base model again, from nothing.",
    ),
    "pocket exam": (
        "posttrain.recipes.pocket_exam_config:PocketExamConfig",
        "posttrain.recipes.pocket_exam:run",
        "Ask a model what it knows of the pocket world: accuracy with intervals.",
    ),
}
