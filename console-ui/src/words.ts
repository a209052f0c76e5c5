// The console's words, each beside its other language: neither can be forgotten.
type Pair = readonly [en: string, zh: string];
interface Table { readonly [name: string]: Pair | Table }

const table = {
  // where one is
  home: ["Home", "首页"], playground: ["Playground", "试用"], workflows: ["Workflows", "工作流"], apps: ["Apps", "应用"], knowledge: ["Knowledge", "知识库"], providers: ["Providers", "提供商"],
  models: ["Models", "模型"], routesAndLimits: ["Routes and limits", "路由与限额"], usageAndCost: ["Usage and cost", "用量与费用"], requests: ["Requests", "请求"], keysAndPeople: ["Keys and people", "密钥与人员"],
  plugins: ["Plugins", "插件"], settings: ["Settings", "设置"], pages: ["Pages", "页面"], page: ["page", "页面"], app: ["App", "应用"], dataset: ["Dataset", "数据集"], provider: ["Provider", "提供商"],
  goTo: ["Go to…", "前往……"], goToHint: ["A page, an app, a dataset, a provider", "页面、应用、数据集或提供商"], menu: ["Menu", "菜单"], skip: ["Skip to the content", "跳到内容"],
  language: ["Language", "语言"], theme: ["Theme", "主题"], themeSystem: ["As the system", "跟随系统"], themeLight: ["Light", "浅色"], themeDark: ["Dark", "深色"],
  signOut: ["Sign out", "退出登录"], notFound: ["There is no such page.", "没有这个页面。"], wrong: ["Something is wrong", "出错了"], again: ["Try again", "重试"],
  lost: ["The server cannot be reached.", "连不上服务器。"], lostRetrying: ["The server cannot be reached. This page goes on by itself when it is back.", "连不上服务器。恢复后本页会自动继续。"],

  // who is here
  email: ["Email", "邮箱"], password: ["Password", "密码"], name: ["Name", "名称"], signIn: ["Sign in", "登录"], signInAt: ["Sign in with {name}", "用 {name} 登录"], signInTitle: ["Sign in to Modelyard", "登录 Modelyard"],
  setUpTitle: ["Make the first account", "创建第一个账户"], setUpText: ["It owns this server. Nobody else can make one this way afterwards.", "它拥有这台服务器，之后其他人不能再这样创建。"], setUp: ["Make it", "创建"],
  single: ["Nobody has to sign in on this machine.", "在本机使用无需登录。"], protect: ["Protect it with an account", "用账户保护它"], expired: ["You were signed out", "登录已失效"],
  expiredText: ["Sign in again to go on; what you were doing is still here.", "请重新登录后继续；你正在做的内容都还在。"], invitedTitle: ["You were invited", "你收到了邀请"], accept: ["Accept", "接受"],

  // what things are called everywhere
  model: ["Model", "模型"], defaultModel: ["the default", "默认模型"], type: ["Type", "类型"], all: ["all", "全部"], none: ["none", "无"], find: ["Find", "查找"], nothingFound: ["Nothing fits.", "没有符合的内容。"],
  state: ["State", "状态"], status: ["Status", "状态"], actions: ["Actions", "操作"], edit: ["Edit", "编辑"], remove: ["Remove", "移除"], removed: ["Removed.", "已移除。"], save: ["Save", "保存"], saved: ["Saved.", "已保存。"],
  add: ["Add", "添加"], make: ["Make", "创建"], cancel: ["Cancel", "取消"], close: ["Close", "关闭"], done: ["Done", "完成"], dismiss: ["Dismiss", "关闭提示"], discard: ["Discard", "放弃"], copy: ["Copy", "复制"], copied: ["Copied.", "已复制。"],
  cannotCopy: ["The browser does not allow copying.", "浏览器不允许复制。"], on: ["On", "开"], off: ["Off", "关"], yes: ["yes", "是"], no: ["no", "否"], ready: ["ready", "就绪"], notReady: ["not set up", "未设置"], optional: ["optional", "可选"],
  open: ["Open", "打开"], run: ["Run", "运行"], stop: ["Stop", "停止"], send: ["Send", "发送"], clear: ["Clear", "清空"], value: ["Value", "值"], data: ["Data", "数据"], details: ["Details", "详情"], title: ["Title", "标题"], kind: ["Kind", "种类"],
  text: ["Text", "文本"], texts: ["Texts", "文本"], question: ["Question", "问题"], answer: ["Answer", "回答"], message: ["Message", "消息"], when: ["When", "时间"], who: ["Who", "谁"], what: ["What", "什么"], from: ["From", "来源"],
  since: ["Since", "起始"], size: ["Size", "大小"], licence: ["Licence", "许可证"], version: ["Version", "版本"], user: ["User", "用户"], key: ["Key", "密钥"], credential: ["Credential", "凭据"], currency: ["Currency", "货币"], role: ["Role", "角色"],
  words: ["Words", "字数"], hits: ["Hits", "命中"], score: ["Score", "分数"], document: ["Document", "文档"], documents: ["Documents", "文档"], context: ["Context", "上下文"], weight: ["Weight", "权重"], priority: ["Priority", "优先级"],
  sureRemove: ["“{name}” will be gone for good.", "“{name}”将被永久移除。"], removeNamed: ["Remove {name}", "移除 {name}"], oneALine: ["One a line.", "每行一个。"], notJson: ["This is not JSON.", "这不是 JSON。"], untitled: ["Untitled", "未命名"],
  types: { "llm": ["Chat", "对话"], "text-embedding": ["Embedding", "向量"], "rerank": ["Rerank", "重排序"], "speech2text": ["Speech to text", "语音转文字"], "tts": ["Text to speech", "文字转语音"], "moderation": ["Moderation", "内容审核"] },
  states: {
    ok: ["ok", "成功"], cached: ["cached", "缓存"], cancelled: ["cancelled", "已取消"], lost: ["lost", "丢失"], running: ["running", "运行中"], succeeded: ["succeeded", "成功"], success: ["done", "完成"], failed: ["failed", "失败"], error: ["failed", "失败"],
    stopped: ["stopped", "已停止"], paused: ["paused", "已暂停"], "partial-succeeded": ["partly succeeded", "部分成功"], completed: ["completed", "完成"], indexing: ["indexing", "索引中"], parsing: ["reading", "解析中"], splitting: ["splitting", "切分中"],
    waiting: ["waiting", "等待中"], queuing: ["queued", "排队中"], ready: ["ready", "就绪"], rate_limit_exceeded: ["rate limit", "超出速率限制"], insufficient_quota: ["budget spent", "额度用尽"], upstream_authorization: ["key refused", "密钥被拒"],
    upstream_unavailable: ["provider down", "提供商不可用"], upstream_unreachable: ["not reached", "无法连接"], upstream_timeout: ["too slow", "超时"], invalid_request: ["wrong request", "请求有误"],
  },

  // home
  needsYou: ["Needs you", "需要你处理"], allWell: ["Nothing needs you.", "没有需要你处理的事。"], runsSince: ["Modelyard {version}, running for {span}", "Modelyard {version}，已运行 {span}"], restingFor: ["{place} rests after failures, for {seconds} more.", "{place} 因失败在休息，还需 {seconds}。"],
  lookAtProviders: ["Look at the providers", "查看提供商"], lookAtSettings: ["Look at the health", "查看运行状况"], noChatModel: ["There is no chat model yet.", "还没有对话模型。"], addProvider: ["Add a provider", "添加提供商"], readyNow: ["Ready now: {names}", "已就绪：{names}"],
  today: ["Today", "今天"], callsMade: ["Calls", "调用"], failed: ["Failed", "失败"], tokens: ["Tokens", "Token"], cost: ["Cost", "费用"], unpriced: ["not all priced", "部分没有价格"], byModel: ["By model", "按模型"],
  noCalls: ["Nothing was called today.", "今天还没有调用。"], lastFailures: ["The last failures", "最近的失败"], allOfThem: ["All of them", "查看全部"], firstSteps: ["First steps", "第一步"], stepChat: ["Say hello to a model", "和模型打个招呼"],
  stepKeyText: ["Point any OpenAI client at", "把任意 OpenAI 客户端指向"], stepWorkflow: ["Draw a workflow, or import one", "绘制或导入工作流"], stepKnowledge: ["Ask your own documents", "向自己的文档提问"],

  // playground
  modelTypes: ["Model types", "模型类型"], modelNumber: ["Model {number}", "模型 {number}"], removeModel: ["Remove {name}", "移除 {name}"], compareWith: ["Compare with", "对比"], parameters: ["Parameters", "参数"], systemPrompt: ["System prompt", "系统提示词"],
  tools: ["Tools", "工具"], toolsHelp: ["A JSON list, as OpenAI has it.", "JSON 列表，格式同 OpenAI。"], answerSchema: ["JSON schema of the answer", "回答的 JSON Schema"], answerSchemaHelp: ["The answer is held to it.", "回答会遵守它。"],
  noRules: ["This model declares no parameters.", "该模型没有声明参数。"], asModelLikes: ["as the model likes", "由模型决定"], emptyChat: ["Choose a model and write to it.", "选一个模型，给它写点什么。"], ask: ["Write a message…", "输入消息……"], hello: ["Hello!", "你好！"],
  picture: ["Picture", "图片"], pictures: ["{count} pictures", "{count} 张图片"], you: ["You", "你"], thinking: ["Thinking", "思考过程"], toolCalls: ["Tool calls", "工具调用"], firstWord: ["First word after {time},", "首字 {time}，"], allIn: ["all in {time}", "全部 {time}"],
  tokensInOut: ["{in} tokens in, {out} out", "输入 {in}、输出 {out} token"], why: ["why it went there", "为什么走这条路"], sameCall: ["The same call as a program", "用程序做同样的调用"], inLanguage: ["Written in", "语言"],
  textsToCompare: ["Texts to compare", "要比较的文本"], compare: ["Compare", "比较"], likeness: ["How alike they are", "相似度"], dimensions: ["{count} dimensions", "{count} 维"], embedExample: ["The cat sleeps on the sofa.\nA kitten naps on the couch.\nThe stock market fell today.", "猫在沙发上睡觉。\n小猫在长椅上打盹。\n今天股市下跌。"],
  rerankQuery: ["How do I reset my password?", "怎样重置密码？"], rerankExample: ["Click “forgot password” on the sign-in page.\nOur office is open from nine to five.\nPasswords must have ten characters.", "在登录页点击“忘记密码”。\n我们的办公时间是九点到五点。\n密码至少十个字符。"],
  sort: ["Sort", "排序"], sorted: ["Best first", "由好到差"], moderate: ["Check", "审核"], moderateExample: ["Have a lovely day!\nI will hurt you.", "祝你今天愉快！\n我要伤害你。"], verdicts: ["Verdicts", "结论"], verdict: ["Verdict", "结论"], flagged: ["flagged", "有问题"],
  notFlagged: ["fine", "没问题"], highest: ["Highest", "最高项"], voice: ["Voice", "音色"], speak: ["Speak", "朗读"], spoken: ["What was spoken", "朗读结果"], speakExample: ["Good morning. The tests are green.", "早上好，测试全部通过。"],
  audioFile: ["A recording", "录音文件"], record: ["Record", "录音"], stopRecording: ["Stop recording", "停止录音"], noMicrophone: ["The browser gives no microphone to this page.", "浏览器没有允许使用麦克风。"], transcribe: ["Transcribe", "转写"],
  transcribeHint: ["Record something, or choose a file.", "录一段音，或选择文件。"], nothingHeard: ["Nothing was heard.", "没有听到内容。"], rerank: ["Rerank", "重排序"],

  // providers and models
  providersText: ["Who answers calls. Several credentials of one provider share the load.", "谁来回答调用。同一提供商的多个凭据会分担负载。"], readyToUse: ["Ready", "已就绪"], moreProviders: ["More", "更多"], countModels: ["{count} models", "{count} 个模型"], countCredentials: ["{count} credentials", "{count} 个凭据"],
  someRest: ["A credential rests after failures.", "有凭据因失败在休息。"], credentials: ["Credentials", "凭据"], addCredential: ["Add a credential", "添加凭据"], addCredentialFor: ["A credential for {name}", "{name} 的凭据"], needsNone: ["This provider needs no credential.", "该提供商不需要凭据。"],
  noCredential: ["No credential yet.", "还没有凭据。"], noCredentialText: ["Add one, and its models can be called at once.", "添加后即可调用它的模型。"], rests: ["rests for {span}", "休息 {span}"], fromSettings: ["from the settings", "来自设置文件"], anyName: ["Any other model name is passed on as it is.", "其他模型名会原样传递。"],
  priceInOut: ["A million tokens in / out", "每百万 token 输入/输出"], credentialName: ["{name} {number}", "{name} {number}"], credentialWorks: ["It works: {count} models.", "可用：{count} 个模型。"], keepSecrets: ["Leave the form empty to keep what is stored.", "留空则保留已存的内容。"],
  weightHelp: ["Its share of the load.", "分担负载的比例。"], priorityHelp: ["Lower goes first.", "数字小的先用。"], saveAnyway: ["Save it anyway", "仍然保存"], checking: ["Asking the provider…", "正在询问提供商……"], checkAndSave: ["Check and save", "检查并保存"],
  modelsText: ["All that could be called, and what stands for the defaults.", "所有可调用的模型，以及默认模型。"], catalogue: ["Catalogue", "目录"], localModels: ["On this machine", "本机模型"], defaults: ["Defaults", "默认模型"], customModels: ["Own models", "自定义模型"],
  readyOnly: ["ready ones only", "仅就绪的"], firstOf: ["{shown} of {all} are shown; find narrows them.", "共 {all} 个，显示 {shown} 个；可用查找缩小范围。"], localText: ["They need no key and no network once pulled.", "下载后不需要密钥和网络。"], localOff: ["Local models are switched off: local.enabled in the settings.", "本机模型已关闭：见设置 local.enabled。"], pull: ["Pull", "下载"], pulling: ["Pulling {name}", "正在下载 {name}"], pulled: ["{name} is here.", "{name} 已就绪。"],
  sureRemoveWeights: ["{name} ({size}) will be deleted from this machine. It can be pulled again.", "{name}（{size}）将从本机删除，可以再次下载。"], defaultsText: ["What callers get who ask for `default`, `default-tts` and so on.", "请求 `default`、`default-tts` 等时使用的模型。"], firstReady: ["the first that is ready", "第一个就绪的"],
  customText: ["Models that a provider serves and the catalogue does not list, with their prices.", "提供商有而目录没有列出的模型及其价格。"], noCustom: ["No own models yet.", "还没有自定义模型。"], addModel: ["Add a model", "添加模型"], inputPrice: ["Price in", "输入价格"], outputPrice: ["Price out", "输出价格"], perMillion: ["For a million tokens.", "每百万 token。"],

  // routes and limits
  routesText: ["Where calls go, what happens when that fails, and how much may be used.", "调用去哪里、失败时怎么办、可以用多少。"], routes: ["Routes", "路由"], limits: ["Limits and budgets", "限额与预算"], limit: ["Limit", "限额"], dryRun: ["Dry run", "试算"], dryRunText: ["Where a call would go now. Nothing is called.", "现在的调用会去哪里。不会真的调用。"],
  noRoutes: ["No routes yet.", "还没有路由。"], noRoutesText: ["A route is a name that callers use as a model; behind it may be several, with failover.", "路由是调用者当作模型使用的名字；后面可以有多个模型和故障转移。"], addRoute: ["Add a route", "添加路由"], targets: ["Targets", "目标"], strategy: ["Strategy", "策略"], failover: ["Failover", "故障转移"],
  routeNameHelp: ["Callers ask for it as for a model.", "调用者像模型一样使用它。"], addTarget: ["Add a target", "添加目标"], failoverHelp: ["Tried in this order when no target can answer.", "没有目标能回答时依次尝试。"], thenTry: ["Then {number}", "其次 {number}"], addFailover: ["Add a failover", "添加故障转移"],
  sticky: ["Keep together", "保持同一凭据"], perUser: ["a user's calls", "同一用户"], perPrompt: ["a prompt's beginning", "同一提示开头"], cacheSeconds: ["Cache, seconds", "缓存秒数"], cacheHelp: ["Answers may be given again for so long.", "在此时间内可重复使用回答。"],
  strategies: { round_robin: ["in turn", "轮流"], weighted: ["by weight", "按权重"], least_in_flight: ["least busy", "最空闲"], lowest_latency: ["quickest", "最快"], lowest_cost: ["cheapest", "最便宜"], random: ["at random", "随机"] },
  noLimits: ["No limits yet.", "还没有限额。"], noLimitsText: ["A limit says how many calls, tokens or how much money may be used.", "限额规定可以用多少次调用、多少 token 或多少钱。"], addLimit: ["Add a limit", "添加限额"], amount: ["Amount", "数量"], unit: ["Unit", "单位"], window: ["Within", "时间窗口"], foreach: ["For each", "按"], onlyFor: ["Only for", "仅限"], everybody: ["everybody", "所有人"],
  onlyKey: ["Only this key", "仅此密钥"], onlyUser: ["Only this user", "仅此用户"], onlyModel: ["Only these models", "仅这些模型"], patternHelp: ["A pattern as openai/*.", "如 openai/* 的模式。"],
  units: { requests: ["requests", "次请求"], tokens: ["tokens", "token"], cost: ["money", "费用"], concurrency: ["at once", "并发"], credits: ["credits", "点数"], times: ["times", "次"] },
  windows: { minute: ["a minute", "每分钟"], hour: ["an hour", "每小时"], day: ["a day", "每天"], month: ["a month", "每月"], total: ["in all", "总共"] },
  per: { tenant: ["tenant", "租户"], key: ["key", "密钥"], user: ["user", "用户"], model: ["model", "模型"] },
  theModel: ["The model", "该模型"], byRoute: ["The route {name}", "路由 {name}"], thenFailover: ["Then, if that fails", "失败时"], noDeployment: ["Nothing here can answer: a credential is missing.", "没有可用的：缺少凭据。"], share: ["Share", "占比"], inFlight: ["Busy with", "进行中"], firstChunk: ["First word", "首字"],
  used: ["Used", "已用"], notYet: ["nothing yet", "还没有使用"], cachedFor: ["Answers may come from the cache for {span}.", "回答可在 {span} 内来自缓存。"], notCached: ["Answers are not cached, unless the caller asks for it.", "除非调用者要求，否则不使用缓存。"],

  // usage and requests
  timespan: ["Timespan", "时间段"], groupBy: ["By", "按"], measure: ["Show", "显示"], exportCsv: ["Export CSV", "导出 CSV"], exportJson: ["Export JSON lines", "导出 JSON 行"], noUsage: ["Nothing was used in this time.", "这段时间没有用量。"], others: ["others", "其他"],
  spans: { day: ["Last 24 hours", "最近 24 小时"], week: ["Last 7 days", "最近 7 天"], month: ["Last 30 days", "最近 30 天"], quarter: ["Last 90 days", "最近 90 天"] },
  by: { provider: ["Provider", "提供商"], model: ["Model", "模型"], user: ["User", "用户"], key: ["Key", "密钥"], credential: ["Credential", "凭据"], model_type: ["Type", "类型"], status: ["Status", "状态"] },
  measures: { cost: ["Cost", "费用"], calls: ["Calls", "调用"], tokens: ["Tokens", "Token"], failed: ["Failures", "失败"] },
  attempts: ["Attempts", "尝试"], tokensIn: ["Tokens in", "输入 token"], tokensOut: ["Tokens out", "输出 token"], cachedTokens: ["Of these cached", "其中缓存"], cacheHits: ["Cache hits", "缓存命中"], unpricedText: ["Some calls have no known price: the cost leaves them out.", "部分调用没有已知价格，费用不含它们。"], howLong: ["How long they took", "耗时"],
  countAttempts: ["{count} attempts", "{count} 次尝试"], live: ["Live", "实时"], clearFilters: ["Clear the filters", "清除筛选"], failedOnly: ["failed", "失败"], noRequests: ["No requests fit.", "没有符合的请求。"], took: ["Took", "耗时"], attemptNumber: ["attempt {number}", "第 {number} 次"],
  filters: { provider: ["Provider", "提供商"], model: ["Model", "模型"], user: ["User", "用户"], key: ["Key", "密钥"], credential: ["Credential", "凭据"] },
  oneRequest: ["One request", "请求详情"], copyId: ["Copy its id", "复制编号"], askedFor: ["Asked for", "请求的模型"], whyThere: ["Why it went there", "为什么走这条路"], noAttempts: ["No provider was called.", "没有调用任何提供商。"], attemptAt: ["Began after {begin}, took {span}", "{begin} 后开始，耗时 {span}"],
  countedBy: ["Counted by", "计数者"], counters: { provider: ["the provider", "提供商"], estimate: ["us, about", "本机估算"], "": ["–", "–"] }, bodies: ["What was said", "内容"], notRecorded: ["What was asked and answered is not kept. The setting telemetry.record keeps it from then on.", "没有保存请求和回答的内容。设置 telemetry.record 后会保存。"],
  asked: ["Asked", "请求"], answered: ["Answered", "回答"], replay: ["Ask it again", "再问一次"], replayWith: ["Ask this model", "询问该模型"],
  decisions: { chose: ["Chose", "选择"], failed: ["Failed", "失败"], waited: ["Waited", "等待"], cached: ["From the cache", "来自缓存"], refused: ["Refused", "拒绝"], queued: ["Queued", "排队"], skipped: ["Skipped", "跳过"], retried: ["Tried again", "重试"], rested: ["Rests now", "开始休息"], hedged: ["Asked a second one", "同时询问另一个"], continued: ["Another went on", "由另一个继续"], "failed over": ["Failed over", "故障转移"] },

  // keys and people
  keysText: ["Who may call, as whom, and what they may spend.", "谁可以调用、以什么身份、可以花多少。"], apiKeys: ["API keys", "API 密钥"], people: ["People", "人员"], endUsers: ["End users", "终端用户"], tenants: ["Tenants", "租户"], sessions: ["Sessions", "登录会话"], audit: ["Changes", "变更记录"],
  makeKey: ["Make a key", "创建密钥"], noKeys: ["No keys yet.", "还没有密钥。"], noKeysText: ["While there is none, everybody on this machine may call, and nobody else can.", "没有密钥时，本机的任何人都可以调用，其他人不能。"], mayCall: ["May call", "可调用"], thirtyDays: ["Last 30 days", "最近 30 天"], setBudget: ["Set a budget", "设置预算"],
  rotate: ["Rotate", "轮换"], revoke: ["Revoke", "吊销"], revoked: ["Revoked.", "已吊销。"], sureRevoke: ["“{name}” serves nobody from now on.", "“{name}”将立即失效。"], revokedKey: ["revoked", "已吊销"], expiredKey: ["expired", "已过期"], until: ["until {day}", "到 {day}"], valid: ["valid", "有效"],
  newKey: ["The new key", "新密钥"], newKeyText: ["It is shown this once. Keep it where only its user sees it.", "只显示这一次，请妥善保存。"], patternsHelp: ["Patterns, with commas between; empty for all.", "用逗号分隔的模式；留空表示全部。"], forUser: ["For the user", "属于用户"], validDays: ["Valid for days", "有效天数"], emptyForever: ["Empty for ever.", "留空表示永久。"],
  protectFirst: ["First, an account for you", "先为自己创建账户"], protectFirstText: ["From the first key on, callers must show one, and this console asks who you are. So make your account, then the key.", "有了第一个密钥后，调用必须出示密钥，控制台也会要求登录。请先创建账户，再创建密钥。"],
  singleMode: ["Single-user mode", "单用户模式"], singleModeText: ["Make an account at the foot of the menu, and others can be invited.", "在菜单底部创建账户后即可邀请其他人。"], roleOf: ["Role of {name}", "{name} 的角色"], mayEnter: ["May sign in", "可登录"], invite: ["Invite", "邀请"], inviteText: ["Give them this link. It is good for a week, once:", "把这个链接发给对方，一周内有效，只能用一次："],
  roles: { owner: ["owner", "所有者"], admin: ["admin", "管理员"], developer: ["developer", "开发者"], viewer: ["viewer", "查看者"] }, endUsersText: ["Whom calls are made for. A user that is switched off is refused.", "调用所服务的用户。被关闭的用户会被拒绝。"], tenantsText: ["Each sees its own and nothing else.", "每个租户只能看到自己的内容。"], tenantNameHelp: ["a-z, 0-9 and -", "a-z、0-9 和 -"],
  browser: ["Browser", "浏览器"], thisOne: ["this one", "当前"], endIt: ["End it", "结束"], ended: ["Ended.", "已结束。"], auditText: ["Every change, newest first.", "所有变更，最新在前。"], noChanges: ["Nothing was changed yet.", "还没有变更。"],

  // plugins
  pluginsText: ["Each runs in a process of its own, and asks for what it may.", "每个插件在自己的进程中运行，只能请求被允许的内容。"], install: ["Install", "安装"], dropPlugin: ["Drop a .difypkg file here, or choose one", "把 .difypkg 文件拖到这里，或选择文件"], reading: ["reading", "读取中"], market: ["From a market", "从市场安装"], noMarket: ["No market lists anything. The setting plugins.markets names them.", "没有可用的市场。可在设置 plugins.markets 中指定。"],
  noPlugins: ["No plugins yet.", "还没有插件。"], debugging: ["Writing one", "开发插件"], debuggingText: ["Put this beside your plugin as .env, and start it: it is here while it runs.", "把以下内容存为插件目录的 .env 并启动，运行期间即可使用。"], logs: ["What it said", "日志"], noLogs: ["It said nothing since it was started.", "启动以来没有日志。"], uninstall: ["Uninstall", "卸载"], sureUninstall: ["{name} and what it kept will be gone.", "{name} 及其数据将被移除。"],
  takes: ["{memory}, {cpu} of CPU, {count} processes", "{memory}，CPU {cpu}，{count} 个进程"], asleep: ["starts when it is called", "调用时启动"], mayAsk: ["It may", "它可以"], toolsOffered: ["Try", "试用"],
  pluginKinds: { tools: ["tools", "工具"], models: ["models", "模型"], endpoints: ["endpoints", "端点"], agent_strategies: ["agent strategies", "智能体策略"], datasources: ["data sources", "数据源"], triggers: ["triggers", "触发器"] },
  runtimes: { local: ["on this machine", "本机"], remote: ["in debug", "调试中"], serverless: ["served elsewhere", "远程服务"] },
  permissions: {
    tool: ["call your other tools", "调用你的其他工具"], node: ["run single steps of workflows", "运行工作流的单个步骤"], endpoint: ["answer web requests at addresses of its own", "在自己的地址响应网络请求"], app: ["use your apps", "使用你的应用"], storage: ["keep data on this server", "在服务器上保存数据"],
    "model.llm": ["call chat models, at your cost", "调用对话模型（费用由你承担）"], "model.text_embedding": ["call embedding models", "调用向量模型"], "model.rerank": ["call rerank models", "调用重排序模型"], "model.tts": ["have text spoken", "使用文字转语音"], "model.speech2text": ["have speech transcribed", "使用语音转文字"], "model.moderation": ["have text checked", "使用内容审核"],
  },

  // knowledge
  knowledgeText: ["Documents that models can search.", "模型可以检索的文档。"], newDataset: ["New dataset", "新建数据集"], noDatasets: ["No datasets yet.", "还没有数据集。"], noDatasetsText: ["Name one, drop documents into it, and ask.", "命名一个，放入文档，然后提问。"], countDocuments: ["{count} documents", "{count} 个文档"], countWords: ["{count} words", "{count} 字"], countHits: ["found {count} times", "命中 {count} 次"],
  askIt: ["Ask", "提问"], retrievalTest: ["Retrieval test", "检索测试"], addDocuments: ["Add documents", "添加文档"], dropDocuments: ["Drop documents here, or choose them", "把文档拖到这里，或选择文件"], splitting: ["How they are split", "切分方式"], splitMode: ["Rule", "规则"], automatic: ["automatic", "自动"], ownRule: ["my own", "自定义"], separator: ["Split at", "分隔符"], pieceSize: ["Tokens a piece", "每段 token"], overlap: ["Overlap", "重叠"],
  noDocuments: ["No documents yet.", "还没有文档。"], indexing: ["Indexing", "索引中"], previewText: ["Try the rule on a text", "用一段文本试规则"], pieces: ["{count} pieces:", "{count} 段："], previewExample: ["The first paragraph.\n\nThe second paragraph.", "第一段。\n\n第二段。"], thinkingNow: ["Asking…", "正在提问……"], notFoundThere: ["The documents do not say.", "文档中没有说明。"], topK: ["How many", "数量"],
  evaluation: ["Evaluation", "评测"], evaluationCases: ["Questions whose document is known", "已知答案所在文档的问题"], evaluationHelp: ["One a line: the question => the document's name.", "每行一个：问题 => 文档名称。"], evaluationExample: ["When is the gate closed? => rules.md", "大门几点关？ => rules.md"],
  method: ["Way", "方式"], foundFirst: ["Found first", "首位命中"], foundInTen: ["Among ten", "前十命中"], reciprocalRank: ["Mean reciprocal rank", "平均倒数排名"], notInTen: ["not found", "未命中"],
  newApp: ["Make a new one", "新建应用"], openingStatement: ["Opening", "开场白"], suggestedQuestions: ["Suggested questions", "建议问题"], mayUse: ["Tools it may use", "可用工具"], mayRead: ["Datasets it reads", "可读数据集"], agentStrategy: ["Strategy", "策略"], allOfTheFile: ["The whole file", "完整文件"],
  methods: { hybrid_search: ["Both", "混合"], semantic_search: ["By meaning", "语义"], full_text_search: ["By words", "全文"] },

  // apps and workflows
  appsText: ["What people use: chats, forms, agents. Any app exported from Dify will do, as it is.", "供人使用的对话、表单和智能体。从 Dify 导出的应用可直接使用。"], workflowsText: ["Steps that are drawn, run and published.", "绘制、运行并发布的流程。"], newWorkflow: ["Draw a new one", "新建工作流"], draw: ["Draw", "绘制"], noWorkflows: ["No workflows yet.", "还没有工作流。"],
  importTitle: ["Import", "导入"], importText: ["Drop exported app files here, or choose them", "把导出的应用文件拖到这里，或选择文件"], imported: ["imported", "已导入"], needs: ["It needs what may not be here:", "它需要这里可能没有的："], tooLarge: ["The file is larger than {most}.", "文件大于 {most}。"], noApps: ["No apps yet.", "还没有应用。"], noAppsText: ["Import one, or draw a workflow.", "导入一个，或绘制工作流。"],
  modes: { chat: ["Chat", "对话"], completion: ["Form", "文本生成"], "agent-chat": ["Agent", "智能体"], "advanced-chat": ["Chatflow", "对话流"], workflow: ["Workflow", "工作流"], "rag-pipeline": ["Knowledge pipeline", "知识管道"] },
  published: ["Published", "已发布"], neverPublished: ["Never published", "从未发布"], hasDraft: ["a draft waits", "有待发布的草稿"], canvas: ["Canvas", "画布"], openPage: ["Open its page", "打开网页"], tryIt: ["Try it", "试用"], publishing: ["Publishing", "发布"], promptsAndTools: ["Prompts and tools", "提示词与工具"],
  conversations: ["Conversations", "对话记录"], runs: ["Runs", "运行记录"], annotations: ["Annotations", "标注"], feedback: ["Feedback", "反馈"], triesDraft: ["This tries the draft: it is not published yet.", "这里试用的是草稿，尚未发布。"], sayHello: ["Say hello.", "打个招呼吧。"], steps: ["{count} steps", "{count} 步"],
  versionName: ["Version's name", "版本名称"], publish: ["Publish", "发布"], publishedNow: ["Published.", "已发布。"], versions: ["Versions", "版本"], asDraft: ["Make it the draft", "设为草稿"], restored: ["It is the draft now.", "已设为草稿。"], exportFile: ["Export", "导出"], itsPage: ["Its page", "它的网页"], publishFirst: ["Publish it first.", "请先发布。"], pageOn: ["On a page of its own", "放到网页上"],
  embed: ["To put it into a page of yours", "嵌入到你的网页"], itsKeys: ["Its keys", "它的密钥"], itsKeysText: ["Programs call it with a key of its own at", "程序用它自己的密钥调用："], setupText: ["The app as its file says it: prompts, tools, features. A draft is kept until it is published.", "应用文件的内容：提示词、工具、功能。保存为草稿，发布后生效。"], saveDraft: ["Save the draft", "保存草稿"], draftSaved: ["The draft is saved.", "草稿已保存。"],
  conflict: ["Somebody else has changed this since you began.", "在你编辑期间，其他人已修改。"], overwrite: ["Save mine over it", "用我的覆盖"], takeTheirs: ["Take theirs", "采用对方的"], keepMine: ["Save mine over it", "用我的覆盖"], line: ["Line {number}:", "第 {number} 行："], noConversations: ["Nobody has talked to it yet.", "还没有对话。"], noRuns: ["It has not run yet.", "还没有运行。"], noFeedback: ["Nobody has rated an answer yet.", "还没有评价。"],
  annotationsText: ["Questions whose answers are given as they stand, without a model.", "这些问题会直接给出固定回答，不经过模型。"], rating: ["Rating", "评价"], ratings: { like: ["liked", "赞"], dislike: ["disliked", "踩"] }, origins: { console: ["console", "控制台"], "service-api": ["API", "API"], tool: ["a tool", "工具"], plugin: ["a plugin", "插件"], "web-app": ["its page", "网页"] },

  // the canvas
  undo: ["Undo", "撤销"], redo: ["Redo", "重做"], tidy: ["Tidy up", "自动布局"], addNode: ["Add a node…", "添加节点……"], variables: ["Variables", "变量"], appSettings: ["App", "应用设置"], unsaved: ["Not saved yet", "尚未保存"], draftKept: ["Draft saved", "草稿已保存"], copiedNodes: ["{count} nodes copied.", "已复制 {count} 个节点。"],
  zoomIn: ["Zoom in", "放大"], zoomOut: ["Zoom out", "缩小"], fitView: ["Show all", "显示全部"], miniMap: ["Mini map", "小地图"], nodeHelp: ["Enter selects the node, arrow keys move it, Delete removes it.", "回车选择节点，方向键移动，Delete 删除。"], edgeHelp: ["Enter selects the connection, Delete removes it.", "回车选择连线，Delete 删除。"], allNodes: ["All {count} nodes", "全部 {count} 个节点"],
  settingsOf: ["Settings of {name}", "{name} 的设置"], chooseVariable: ["choose a variable…", "选择变量……"], insertVariable: ["Insert a variable…", "插入变量……"], chooseTool: ["choose a tool…", "选择工具……"], addCondition: ["Add a condition", "添加条件"], addTo: ["Add to: {name}", "添加：{name}"], moveUp: ["Move up", "上移"], whenItFails: ["When it fails", "失败时"],
  failRun: ["the run fails", "运行失败"], goOnWithDefault: ["go on with a default", "用默认值继续"], goAnotherWay: ["go another way", "走失败分支"], retries: ["Try again up to three times", "最多重试三次"], goesOnTo: ["Goes on to", "后续节点"], connectTo: ["Connect to…", "连接到……"], disconnect: ["Disconnect {name}", "断开 {name}"], testNode: ["Test this node alone", "单独测试此节点"],
  allOfIt: ["All of it, as YAML", "全部内容（YAML）"], removeNode: ["Remove this node", "移除此节点"], saveAndRun: ["Save and run", "保存并运行"], runDraft: ["Run the draft", "运行草稿"], pause: ["Pause", "暂停"], goOn: ["Go on", "继续"], inputs: ["Inputs", "输入"], outputs: ["Outputs", "输出"], replayTo: ["Shown up to", "回放到"], pastRuns: ["Past runs", "历史运行"],
  asSaved: ["as it is saved", "已保存的"], takeThis: ["Take this one", "采用这个"], noDifference: ["No difference.", "没有差异。"], environment: ["Environment", "环境变量"], ofConversation: ["Of a conversation", "会话变量"],
  nodeKinds: {
    start: ["Start", "开始"], end: ["End", "结束"], answer: ["Answer", "直接回复"], llm: ["Model", "大模型"], code: ["Code", "代码"], "template-transform": ["Template", "模板"], "if-else": ["Condition", "条件分支"], "question-classifier": ["Classifier", "问题分类"], "parameter-extractor": ["Extract parameters", "参数提取"], "http-request": ["HTTP request", "HTTP 请求"],
    "knowledge-retrieval": ["Knowledge", "知识检索"], "variable-aggregator": ["First of several", "变量聚合"], "variable-assigner": ["First of several", "变量聚合"], assigner: ["Set variables", "变量赋值"], iteration: ["For each", "迭代"], loop: ["Loop", "循环"], "loop-end": ["End the loop", "结束循环"], "list-operator": ["List", "列表操作"], "document-extractor": ["Read documents", "文档提取"], tool: ["Tool", "工具"], agent: ["Agent", "智能体"],
    "human-input": ["Ask a person", "人工输入"], "trigger-webhook": ["Webhook", "Webhook 触发"], "trigger-schedule": ["Schedule", "定时触发"], "trigger-plugin": ["Plugin trigger", "插件触发"], datasource: ["Data source", "数据源"], "knowledge-index": ["Into knowledge", "写入知识库"], "iteration-start": ["Begin", "开始"], "loop-start": ["Begin", "开始"],
  },
  fields: {
    readsVariables: ["Variables it reads", "读取的变量"], name: ["Name", "名称"], value: ["Value", "值"], type: ["Type", "类型"], required: ["Required", "必填"], inputs: ["Inputs", "输入"], label: ["Label", "标签"], maxLength: ["Most characters", "最大长度"], options: ["Options", "选项"], outputs: ["Outputs", "输出"], answer: ["Answer", "回答"], model: ["Model", "模型"], temperature: ["Temperature", "温度"], prompt: ["Prompt", "提示词"], role: ["Role", "角色"], text: ["Text", "文本"],
    usesContext: ["Uses a context", "使用上下文"], context: ["Context", "上下文"], vision: ["Sees pictures", "识别图片"], structuredOutput: ["Answers by a schema", "结构化输出"], schema: ["JSON schema", "JSON Schema"], memoryWindow: ["Remembers the conversation", "记住对话"], memorySize: ["Messages remembered", "记住的消息数"], code: ["Code", "代码"], template: ["Template", "模板"], cases: ["Cases", "分支"], allOrAny: ["All or any", "全部或任一"], conditions: ["Conditions", "条件"],
    question: ["Question", "问题"], classes: ["Classes", "类别"], instruction: ["Instruction", "说明"], parameters: ["Parameters", "参数"], description: ["Description", "描述"], reasoningMode: ["How it asks", "推理方式"], method: ["Method", "方法"], url: ["Address", "地址"], headers: ["Headers", "请求头"], params: ["Query", "查询参数"], authorization: ["Authorization", "鉴权"], apiKey: ["API key", "API 密钥"], body: ["Body", "请求体"], content: ["Content", "内容"], sslVerify: ["Checks certificates", "校验证书"],
    datasets: ["Datasets", "数据集"], topK: ["How many", "数量"], rerank: ["Reranked", "重排序"], firstThatIs: ["The first that is there", "取第一个有值的"], items: ["Assignments", "赋值"], variable: ["Variable", "变量"], operation: ["Operation", "操作"], from: ["From", "来源"], over: ["For each of", "遍历"], collects: ["Collects", "收集"], parallel: ["In parallel", "并行"], atOnce: ["At once", "并行数"], onError: ["On an error", "出错时"], flatten: ["Flattened", "展平"], mostRounds: ["Rounds at most", "最多轮数"], endsWhen: ["Ends when", "结束条件"],
    loopVariables: ["Loop variables", "循环变量"], list: ["List", "列表"], filters: ["Filters", "过滤"], sorts: ["Sorts", "排序"], sortKey: ["By", "排序字段"], sortOrder: ["Order", "顺序"], limits: ["Limits", "限制"], size: ["Size", "数量"], files: ["Files", "文件"], severalFiles: ["Several files", "多个文件"], tool: ["Tool", "工具"], configuration: ["Configuration", "配置"], strategy: ["Strategy", "策略"], provider: ["Provider", "提供商"], formContent: ["What the person reads", "给人看的内容"], actions: ["Buttons", "按钮"], id: ["Id", "编号"],
    title: ["Title", "标题"], style: ["Style", "样式"], timeout: ["Waits for", "等待时长"], unit: ["Unit", "单位"], plugin: ["Plugin", "插件"], structure: ["Structure", "结构"], technique: ["Technique", "索引方式"], answersAtOnce: ["Answers at once", "立即响应"], statusCode: ["Status code", "状态码"], responseBody: ["Response", "响应"],
  },
  choices: {
    and: ["all", "全部"], or: ["any", "任一"], "no-auth": ["none", "无"], "api-key": ["an API key", "API 密钥"], none: ["none", "无"], terminated: ["stop", "终止"], "continue-on-error": ["go on", "继续"], "remove-abnormal-output": ["leave it out", "忽略"], asc: ["ascending", "升序"], desc: ["descending", "降序"], hour: ["hours", "小时"], day: ["days", "天"], constant: ["a constant", "常量"], variable: ["a variable", "变量"],
    "text-input": ["short text", "短文本"], paragraph: ["text", "段落"], select: ["choice", "下拉"], number: ["number", "数字"], checkbox: ["check box", "复选框"], file: ["file", "文件"], "file-list": ["files", "多个文件"], system: ["system", "系统"], user: ["user", "用户"], assistant: ["assistant", "助手"],
  },

  // settings
  health: ["Health", "运行状况"], asForm: ["As a form", "表单"], asFile: ["As a file", "文件"], licences: ["Licences", "许可证"], runsFor: ["Runs for", "已运行"], database: ["Database", "数据库"], workers: ["Processes", "进程数"], jail: ["How programs are held", "程序隔离"], recording: ["Keeping what is said", "保存内容"], recordingOff: ["off (telemetry.record)", "关（telemetry.record）"],
  jails: { landlock: ["Landlock, namespaces and seccomp", "Landlock、命名空间与 seccomp"], namespaces: ["namespaces and seccomp", "命名空间与 seccomp"], off: ["they do not run at all", "不运行程序"], unknown: ["none has run yet", "尚未运行"] }, apiDocs: ["The admin API, described", "管理 API 文档"], licencesText: ["Whose work this server runs on.", "本服务器使用的软件。"],
  settingsSaved: ["Saved, and taken up within a second.", "已保存，一秒内生效。"], settingsFile: ["This is {path}. Secrets are shown as ********, and stay as they are.", "文件位置：{path}。密钥显示为 ********，保持不变。"], overridden: ["Over it go: {names}.", "环境变量优先：{names}。"], otherwise: ["{value} unless said", "默认 {value}"],
} as const satisfies Table;

type Said<T> = { readonly [K in keyof T]: T[K] extends Pair ? string : Said<T[K]> };
export type Words = Said<typeof table>;

const picked = (from: Table, at: 0 | 1): Record<string, unknown> =>
  Object.fromEntries(Object.entries(from).map(([name, one]) => [name, Array.isArray(one) ? (one as Pair)[at] : picked(one as Table, at)]));

export const LANGUAGES = { en: { tag: "en", label: "English" }, zh: { tag: "zh-Hans", label: "中文" } } as const;
export type Language = keyof typeof LANGUAGES;
export const WORDS = { en: picked(table, 0) as unknown as Words, zh: picked(table, 1) as unknown as Words } as const;

export const filled = (text: string, values: Record<string, string | number>) =>
  text.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
